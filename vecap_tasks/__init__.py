"""VeCap: visual-enriched captions from a web crawl, stage by stage. Knows nothing of Airflow."""

__version__ = "0.2.0"

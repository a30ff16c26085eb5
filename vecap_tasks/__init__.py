"""VeCap: visual-enriched captions from a web crawl, stage by stage. Does not depend on Airflow."""

__version__ = "0.2.0"

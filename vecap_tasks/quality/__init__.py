"""Quality of a crawl: row rules and verdicts, measures, drift and the quality gate."""

"""Which rows of a crawl may go on, and whether the crawl is good enough at all: rules, verdicts, measures, gate."""

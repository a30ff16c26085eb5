"""HTTP: fetching, per-host throttling, robots.txt, URLs and the networks a crawl may reach."""

"""HTTP: fetching, per-host throttling, robots.txt, URL normalization and SSRF protection."""

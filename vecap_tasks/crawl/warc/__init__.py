"""WARC and ARC archives: records and the HTTP messages in them."""

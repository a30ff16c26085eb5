"""HTML pages: parsing and character encodings."""

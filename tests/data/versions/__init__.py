"""Versions made by earlier releases. Every later release must keep them readable: verify, lineage, pages and diff."""

"""From pages to shards of images: sources -> parse -> candidates -> fetch -> decode -> shards -> duplicates.

sources/       pages from WARC files or from a web site
parse          the images a page names, with AltText and what stands around them
address        the one spelling of an address
candidates     one row per image and AltText, numbered into shards
fetch          polite downloads: robots.txt (robots), opt-outs (optout), no private addresses (guard)
decode         bytes to a JPEG of the wanted size
download       fetch and decode for the rows of a shard
shards         tar, parquet and stats of a shard
duplicates     rows with the same bytes
"""

"""From sources to shards of images: links -> candidates -> fetch, or archive -> decode -> shards -> duplicates.

sources/       pages and images of WARC files, links of WAT files, pages of web sites
parse          the images a page names, with AltText and what stands around them
links          one image as a source names it
extract        the links of one part of a source, in a table
address        the one spelling of an address
candidates     one row per image and AltText, numbered into shards
fetch          polite downloads: each host's pace (turn) and permission (permit, robots), opt-outs (optout), no
               private addresses (guard, resolver), reasons for what fails (trouble)
client         one fetcher for all shards of a process
archive        images that a file of the source holds already
decode         bytes to a JPEG of the wanted size: its pixels (color), its notes (exif), its hash (phash)
sniff_mismatch       what a body that is no image is instead
retry          an earlier crawl whose failed rows are tried again
download       fetch and decode for the rows of a shard
shards         tar, parquet and stats of a shard
duplicates     rows with the same bytes, or nearly the same picture (neighbors), here or in earlier versions
"""

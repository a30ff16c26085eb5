"""Crawl stage: read links from sources, download and decode images, write shards, find duplicates.

sources/         links and images of WARC, WAT, URL list, webdataset and web site sources
html/            parser and character encodings of HTML pages
http/            fetcher, throttling, robots.txt, SSRF protection, URL normalization
image/           decoding, resizing, color conversion, perceptual hash
warc/            reader for WARC and ARC records
candidates       table of all links, numbered into shards
shard_images     downloads and decodes the images of a shard
shards           tar, parquet and stats files of a shard
dedup            exact and near duplicates, in this version and in earlier ones
hash_index       the index of a crawl's images, by which later versions find duplicates
hamming          pairs of similar perceptual hashes
previous_crawl   earlier crawl whose failed rows are retried
stage            the stage that connects these modules
"""

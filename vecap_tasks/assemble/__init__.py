"""Assembles the published dataset: shards with images and texts for open_clip and webdataset, and a dataset card."""

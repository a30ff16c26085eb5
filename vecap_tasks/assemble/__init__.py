"""The published dataset: image and texts side by side in shards that open_clip and webdataset read, and its card."""

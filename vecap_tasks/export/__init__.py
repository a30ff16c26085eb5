"""Exports a published version as a self-contained dataset: webdataset tars, Parquet, or a Hugging Face dataset."""

"""Trains the demo's small VLM and LLM from scratch on drawn scenes; the weights are in vecap_tasks/demo/models."""

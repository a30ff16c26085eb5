"""Trains one CLIP model per arm and seed on the training shards of a version."""

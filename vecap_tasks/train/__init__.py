"""Training: a CLIP model for each arm and seed, on the training shards of one version."""

"""Training data: mixtures, samples, images and batches."""

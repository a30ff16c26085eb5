"""Evaluation: retrieval and zero-shot classification of the trained models, by arm and seed."""

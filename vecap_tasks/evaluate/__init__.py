"""Retrieval and zero-shot evaluation of trained models, by arm and seed."""

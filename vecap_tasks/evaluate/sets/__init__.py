"""Evaluation sets in all supported formats, and their digests."""

from vecap_tasks.evaluate.sets.loader import EvaluationSets, read_sets
from vecap_tasks.evaluate.sets.types import ImageFile, RetrievalSet, ZeroShotSet

__all__ = ["EvaluationSets", "ImageFile", "RetrievalSet", "ZeroShotSet", "read_sets"]

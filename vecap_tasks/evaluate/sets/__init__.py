"""Evaluation sets in all supported formats, and their digests."""

from vecap_tasks.evaluate.sets.loader import EvaluationSets, read_sets
from vecap_tasks.evaluate.sets.types import ChoiceSet, ImageFile, ProbeSet, RetrievalSet, ZeroShotSet

__all__ = ["ChoiceSet", "EvaluationSets", "ImageFile", "ProbeSet", "RetrievalSet", "ZeroShotSet", "read_sets"]

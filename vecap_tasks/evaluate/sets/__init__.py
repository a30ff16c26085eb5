"""The sets that models are measured on, whatever format they lie in, and the digest by which they are known."""

from vecap_tasks.evaluate.sets.loader import EvaluationSets, read_sets
from vecap_tasks.evaluate.sets.types import ImageFile, RetrievalSet, ZeroShotSet

__all__ = ["EvaluationSets", "ImageFile", "RetrievalSet", "ZeroShotSet", "read_sets"]

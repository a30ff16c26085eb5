"""The sets that models are measured on, whatever format they lie in, and the digest by which they are known."""

from vecap_tasks.evaluate.sets.given import EvaluationSets, read_sets
from vecap_tasks.evaluate.sets.kinds import RetrievalSet, ZeroShotSet
from vecap_tasks.evaluate.sets.picture import Picture

__all__ = ["EvaluationSets", "Picture", "RetrievalSet", "ZeroShotSet", "read_sets"]

"""Loads what the readers import or read only once. Imported in the process that children are forked from."""

import pyarrow as pa

import vecap_tasks.evaluate.sets
import vecap_tasks.rewrite.backends.openai_errors
import vecap_tasks.rewrite.screen
import vecap_tasks.train.data.samples  # noqa: F401
from benchmarks import fuzz_child, fuzz_readers, fuzz_readers_text

__all__ = ["fuzz_child"]

pa.array([0])  # imports pandas
fuzz_readers.demo_settings()
fuzz_readers_text.prompts()

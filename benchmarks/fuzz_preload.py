"""Import this module in the process that children are forked from, so that they start in milliseconds."""

from benchmarks import fuzz_child, fuzz_readers

__all__ = ["fuzz_child"]

fuzz_readers.warm_up()

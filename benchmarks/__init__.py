"""Ours and the tool that people use now, in one run on one machine: `python -m benchmarks.NAME [--json FILE]`."""

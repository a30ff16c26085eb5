"""Continuous integration runs every test."""

from __future__ import annotations

import re

from tests.installation import REPOSITORY

CI = REPOSITORY / ".ci"


def test_every_exhaustive_test_and_the_cluster_test_run_in_a_part() -> None:
    parts = (CI / "parts").read_text()
    tests = REPOSITORY / "tests"
    marked = [
        file for file in tests.rglob("test_*.py") if re.search(r"^[^#\n]*mark\.exhaustive", file.read_text(), re.M)
    ]
    assert len(marked) > 8
    for file in marked:
        name = str(file.relative_to(REPOSITORY))
        folder = str(file.parent.relative_to(REPOSITORY))
        assert re.search(rf'[" ]({name}|{folder})[" ]', parts), f"{name} runs in no part"
    assert "make test-cluster" in parts

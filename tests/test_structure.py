"""The package has no import cycle and stays within its size limits."""

from __future__ import annotations

import pytest

from benchmarks import structure


def test_the_package_is_within_its_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert structure.main([]) == 0, capsys.readouterr().out


def test_an_import_cycle_is_found_and_named() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    (cycle,) = structure.find_cycles(graph)
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"a", "b", "c"}
    assert structure.find_cycles({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == []

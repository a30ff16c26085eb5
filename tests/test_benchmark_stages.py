"""The benchmark of the real stages: all rows pass all stages, and finished cells are not measured again."""

import subprocess

import pytest

from benchmarks import stages
from benchmarks.stages import ROWS, STAGES, Cell, measure_stages, read_cells, summarize


@pytest.mark.slow
def test_the_stages_run_and_finished_cells_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SMALLEST", 1)
    monkeypatch.setattr(stages, "REFERENCE", 2)
    monkeypatch.setattr(stages, "_REFERENCE_ROUNDS", 1)
    monkeypatch.setattr(stages, "ROWS", 20)
    measures = measure_stages([2], 1, tmp_path)
    assert [m.name for m in measures if "CPU" in m.name] == [f"{name} CPU per sample, 2 shards" for name in STAGES]
    cells = read_cells(tmp_path / "cells.jsonl")
    assert [(cell.stage, cell.shards) for cell in cells] == [(name, size) for size in (1, 2) for name in STAGES]
    assert all(cell.cpu > 0 and cell.memory > 2**24 for cell in cells)
    with (tmp_path / "cells.jsonl").open("a") as log:
        log.write('\n{"commit": "kil')
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(stages, "_commit", lambda: cells[0].commit)
    assert measure_stages([2], 1, tmp_path) == measures


def test_growth_shows_although_a_fixed_cost_hides_it():
    def cell(shards, seconds):
        return Cell("abc", "rewrite", shards, 0, shards * ROWS, seconds, seconds, 0, 0)

    cells = [cell(10, 100 + 1), cell(100, 100 + 10), cell(1000, 100 + 100 + 90)]
    found = {m.name: m.ratio for m in summarize(cells) if "CPU" in m.name}
    assert found == pytest.approx({"rewrite CPU per sample, 100 shards": 1, "rewrite CPU per sample, 1,000 shards": 2})

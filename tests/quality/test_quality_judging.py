"""The benchmark of the stage quality runs the stage on a generated crawl in which the rules fire."""

from collections import Counter

import pyarrow.parquet as pq

from benchmarks.judging import STEPS, generate_crawl, load_quality, run_step

ROWS = 3_000


def test_every_step_of_the_stage_is_measured(tmp_path):
    generate_crawl(ROWS, tmp_path, images=True)
    assert all(run_step(step, tmp_path).cpu > 0 for step in (*STEPS, "read", "rewrite", "assemble"))
    stage = load_quality(tmp_path)
    rows = pq.read_table(stage.store.path(f"{stage.folder}/verdicts")).to_pylist()
    assert len(rows) == ROWS
    reasons = Counter(reason for row in rows for reason in row["reasons"])
    assert reasons.keys() >= {"not_downloaded", "opted_out", "too_small", "aspect", "flat", "duplicate_image"}
    problems = Counter(row["alttext_problem"] for row in rows)
    assert problems.keys() >= {None, "missing", "file_name", "boilerplate", "generic"}
    assert ROWS / 4 < sum(row["accepted"] for row in rows) < ROWS

"""What a user of the DAGs relies on: they load at once, are wired in the order of the work, and explain themselves."""

import re
from itertools import pairwise

import pytest

HEAVY = ("torch", "transformers", "great_expectations", "mlflow", "distributed", "duckdb", "pyarrow", "pandas")


def test_all_load_without_errors(read):
    assert read.errors == {}
    assert sorted(read.dags) == ["vecap_clip", "vecap_dataset", "vecap_recaption"]


def test_reading_them_imports_nothing_heavy(read):
    assert [name for name in HEAVY if name in read.modules] == []


@pytest.mark.parametrize("dag", ["vecap_clip", "vecap_dataset", "vecap_recaption"])
def test_explains_itself(read, dag):
    assert len(read.dags[dag]["doc"]) > 200
    for name, param in read.dags[dag]["params"].items():
        assert param["description"], name
        assert param["schema"]["title"], name


@pytest.mark.parametrize("dag", ["vecap_clip", "vecap_dataset", "vecap_recaption"])
def test_every_task_is_tried_again_with_growing_pauses(read, dag):
    for name, task in read.dags[dag]["tasks"].items():
        assert 2 <= task["retries"] <= 3, name
        assert task["backoff"] == 2.0, name
    assert read.dags[dag]["catchup"] is False


@pytest.mark.parametrize(
    ("dag", "stages"),
    [
        ("vecap_dataset", ["crawl", "quality", "rewrite", "assemble"]),
        ("vecap_recaption", ["rewrite", "assemble"]),
        ("vecap_clip", ["train", "evaluate"]),
    ],
)
def test_stages_follow_each_other(read, dag, stages):
    tasks = read.dags[dag]["tasks"]
    for stage in stages:
        assert f"{stage}.plan" in tasks[f"{stage}.run"]["upstream"]
        assert f"{stage}.run" in tasks[f"{stage}.commit"]["upstream"]
        assert tasks[f"{stage}.run"]["mapped"]
        # With nothing to do `run` is mapped over nothing and skipped: the stage must be committed all the same.
        assert tasks[f"{stage}.commit"]["rule"] == "none_failed"
    for before, after in pairwise(stages):
        assert f"{before}.commit" in tasks[f"{after}.plan"]["upstream"]
    assert {name.partition(".")[0] for name in tasks if "." in name} == set(stages)


@pytest.mark.parametrize(("dag", "param"), [("vecap_dataset", "interval"), ("vecap_recaption", "from")])
def test_a_form_takes_no_interval_that_is_no_date(read, dag, param):
    pattern = re.compile(read.dags[dag]["params"][param]["schema"]["pattern"])
    assert all(map(pattern.search, ["2026-01-01", "2026-01-01T05", "2026-01-01T05:00:00"]))
    assert not any(map(pattern.search, ["2026-1-1", "latest", "2026-01-01-r2", " 2026-01-01"]))


def test_a_version_is_published_after_it_is_assembled(read):
    for dag in ("vecap_dataset", "vecap_recaption"):
        assert "assemble.commit" in read.dags[dag]["tasks"]["publish"]["upstream"]


def test_pools_bound_captioning_and_the_gpu(read):
    from vecap_tasks.local.airflow import POOLS

    pools = {
        (dag, name): task["pool"]
        for dag, found in read.dags.items()
        for name, task in found["tasks"].items()
        if task["pool"] != "default_pool"
    }
    assert pools == {
        ("vecap_dataset", "rewrite.run"): "captioning",
        ("vecap_recaption", "rewrite.run"): "captioning",
        ("vecap_clip", "train.run"): "gpu",
        ("vecap_clip", "evaluate.run"): "gpu",
    }
    assert {pool.name for pool in POOLS} == {"captioning", "gpu"}


def test_schedules_cascade(read):
    assert read.dags["vecap_dataset"]["timetable"] == "CronPartitionTimetable"
    assert read.dags["vecap_clip"]["timetable"] == "PartitionedAssetTimetable"
    assert read.dags["vecap_recaption"]["timetable"] == "NullTimetable"


def test_a_person_is_asked_only_on_the_way_to_the_crown(read):
    tasks = read.dags["vecap_clip"]["tasks"]
    assert tasks["judge"]["upstream"] == ["find_version", "record"]
    assert tasks["approve"]["upstream"] == ["judge"]
    assert tasks["crown"]["upstream"] == ["approve", "find_version", "judge"]
    assert tasks["crown"]["rule"] == "none_failed_min_one_success", "it runs where nobody was to be asked"

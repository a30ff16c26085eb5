"""The DAGs: imports, task order, retries, pools, schedules and documentation."""

import re
from itertools import pairwise

import pytest

HEAVY = ("torch", "transformers", "great_expectations", "mlflow", "distributed", "duckdb", "pyarrow", "pandas")


def test_all_dags_load_without_errors(parsed):
    assert parsed.errors == {}
    assert sorted(parsed.dags) == ["vecap_clip", "vecap_dataset", "vecap_recaption", "vecap_tune"]


def test_parsing_imports_no_heavy_modules(parsed):
    assert [name for name in HEAVY if name in parsed.modules] == []


@pytest.mark.parametrize("dag", ["vecap_clip", "vecap_dataset", "vecap_recaption", "vecap_tune"])
def test_dags_and_parameters_are_documented(parsed, dag):
    assert len(parsed.dags[dag]["doc"]) > 200
    for name, param in parsed.dags[dag]["params"].items():
        assert param["description"], name
        assert param["schema"]["title"], name


@pytest.mark.parametrize("dag", ["vecap_clip", "vecap_dataset", "vecap_recaption", "vecap_tune"])
def test_every_task_has_retries_with_exponential_backoff(parsed, dag):
    for name, task in parsed.dags[dag]["tasks"].items():
        assert 2 <= task["retries"] <= 3, name
        assert task["backoff"] == 2.0, name
    assert parsed.dags[dag]["catchup"] is False


@pytest.mark.parametrize(
    ("dag", "stages"),
    [
        ("vecap_dataset", ["crawl", "quality", "rewrite", "assemble"]),
        ("vecap_recaption", ["rewrite", "assemble"]),
        ("vecap_clip", ["train", "evaluate"]),
        ("vecap_tune", ["train", "evaluate"]),
    ],
)
def test_stages_run_in_order(parsed, dag, stages):
    tasks = parsed.dags[dag]["tasks"]
    for stage in stages:
        assert f"{stage}.plan" in tasks[f"{stage}.run"]["upstream"]
        assert f"{stage}.run" in tasks[f"{stage}.commit"]["upstream"]
        assert tasks[f"{stage}.run"]["mapped"]
        # Without pending shards, `run` is skipped, but the stage must still be committed.
        assert tasks[f"{stage}.commit"]["rule"] == "none_failed"
    for before, after in pairwise(stages):
        assert f"{before}.commit" in tasks[f"{after}.plan"]["upstream"]
    assert {name.partition(".")[0] for name in tasks if "." in name} == set(stages)


@pytest.mark.parametrize(("dag", "param"), [("vecap_dataset", "interval"), ("vecap_recaption", "from")])
def test_the_trigger_form_validates_intervals(parsed, dag, param):
    pattern = re.compile(parsed.dags[dag]["params"][param]["schema"]["pattern"])
    assert all(map(pattern.search, ["2026-01-01", "2026-01-01T05", "2026-01-01T05:00:00"]))
    assert not any(map(pattern.search, ["2026-1-1", "latest", "2026-01-01-r2", " 2026-01-01"]))


@pytest.mark.parametrize(
    ("dag", "fields"),
    [
        ("vecap_dataset", ["interval", "config", "overrides"]),
        ("vecap_clip", ["version", "config", "overrides"]),
        ("vecap_tune", ["version", "budget", "config", "overrides"]),
        ("vecap_recaption", ["from", "to", "vlm_model", "vlm_prompt", "llm_model", "llm_prompt", "overrides"]),
    ],
)
def test_the_trigger_form_opens_with_the_important_fields(parsed, dag, fields):
    schemas = {name: param["schema"] for name, param in parsed.dags[dag]["params"].items()}
    # Airflow opens the fields without a section and closes the other sections.
    assert [name for name, schema in schemas.items() if schema.get("section") is None] == fields


def test_the_trigger_form_validates_versions(parsed):
    pattern = re.compile(parsed.dags["vecap_clip"]["params"]["version"]["schema"]["pattern"])
    assert all(map(pattern.search, ["2026-01-01", "2026-01-01-r2", "2026-01-01T05-r12"]))
    assert not any(map(pattern.search, ["2026-1-1", "2026-01-01-2", "latest", "2026-01-01-r", ""]))


@pytest.mark.parametrize(
    ("dag", "page"), [("vecap_dataset", "versions"), ("vecap_recaption", "versions"), ("vecap_clip", "champion")]
)
def test_the_documentation_links_to_the_pages(parsed, dag, page):
    assert f"](plugin/vecap/vecap/{page})" in parsed.dags[dag]["doc"]


def test_publish_follows_assemble(parsed):
    for dag in ("vecap_dataset", "vecap_recaption"):
        assert "assemble.commit" in parsed.dags[dag]["tasks"]["publish"]["upstream"]


def test_captioning_and_gpu_tasks_use_pools(parsed):
    from vecap_tasks.local.airflow import POOLS

    pools = {
        (dag, name): task["pool"]
        for dag, found in parsed.dags.items()
        for name, task in found["tasks"].items()
        if task["pool"] != "default_pool"
    }
    assert pools == {
        ("vecap_dataset", "rewrite.run"): "captioning",
        ("vecap_recaption", "rewrite.run"): "captioning",
        ("vecap_clip", "train.run"): "gpu",
        ("vecap_clip", "evaluate.run"): "gpu",
        ("vecap_tune", "plan_trainings"): "gpu",
        ("vecap_tune", "train.run"): "gpu",
        ("vecap_tune", "evaluate.run"): "gpu",
    }
    assert {pool.name for pool in POOLS} == {"captioning", "gpu"}


def test_dags_have_the_expected_timetables(parsed):
    assert parsed.dags["vecap_dataset"]["timetable"] == "CronPartitionTimetable"
    assert parsed.dags["vecap_clip"]["timetable"] == "PartitionedAssetTimetable"
    assert parsed.dags["vecap_recaption"]["timetable"] == parsed.dags["vecap_tune"]["timetable"] == "NullTimetable"


def test_promotion_follows_the_comparison_and_an_optional_approval(parsed):
    tasks = parsed.dags["vecap_clip"]["tasks"]
    assert tasks["compare_champion"]["upstream"] == ["find_version", "record"]
    assert tasks["approve"]["upstream"] == ["compare_champion"]
    assert tasks["promote"]["upstream"] == ["approve", "compare_champion", "find_version"]
    assert tasks["promote"]["rule"] == "none_failed_min_one_success", "it also runs without approval"

"""How a run's parameters become its work."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import given
from hypothesis import strategies as st
from vecap_airflow.job import DEFAULT_CONFIG, Job, interval_of_run, split
from vecap_airflow.tasks import fail_permanently

from vecap_tasks.config import load_config
from vecap_tasks.errors import ConfigError, GateFailed, VecapError


@given(st.lists(st.integers(), max_size=200), st.integers(min_value=1, max_value=50))
def test_split_keeps_every_item_in_order_and_shares_evenly(items, groups):
    shares = split([str(item) for item in items], groups)
    assert [item for share in shares for item in share] == [str(item) for item in items]
    assert len(shares) == min(groups, len(items))
    assert not shares or max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("key", "given_", "interval"),
    [("2026-01-01", None, "2026-01-01"), (None, "week-3", "week-3"), ("2026-01-01", "2026-01-01", "2026-01-01")],
)
def test_interval_of_a_run(key, given_, interval):
    assert interval_of_run(key, given_) == interval


def test_a_run_without_interval_says_what_to_do():
    with pytest.raises(ConfigError, match="trigger it again with one"):
        interval_of_run(None, None)
    with pytest.raises(ConfigError, match="give one of them"):
        interval_of_run("2026-01-01", "2026-01-02")


def test_a_job_survives_xcom_and_reads_its_configuration():
    job = Job.read(DEFAULT_CONFIG, ["train.epochs=3"], ["2026-01-01"])
    again = Job.from_xcom(json.loads(json.dumps(job.to_xcom())))
    assert again == job
    assert again.load() == load_config(DEFAULT_CONFIG, ["train.epochs=3"])
    assert again.load().base == Path(DEFAULT_CONFIG).parent
    assert Job.read("configs/demo.yaml", []).load().dataset == "demo"  # relative to the repository


def test_a_job_keeps_the_configuration_that_it_started_with(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(Path(DEFAULT_CONFIG).read_text())
    job = Job.read(str(file), [])
    file.write_text("nonsense")
    assert job.load().dataset == "demo"


def test_an_error_that_trying_again_cannot_mend_fails_the_task_in_one_line():
    with pytest.raises(AirflowFailException, match=r"^too few rows$"), fail_permanently():
        raise GateFailed("too few\nrows")
    with pytest.raises(VecapError), fail_permanently():  # anything else is tried again
        raise VecapError("the network is away")


def test_the_clock_counts_from_the_installation(monkeypatch):
    from vecap_airflow.job import schedule_from

    monkeypatch.delenv("VECAP_SCHEDULE_FROM", raising=False)
    assert schedule_from() is None
    monkeypatch.setenv("VECAP_SCHEDULE_FROM", "2026-01-01T10:00:00+00:00")
    assert schedule_from() == datetime(2026, 1, 1, 10, tzinfo=UTC)

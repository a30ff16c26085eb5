"""Jobs: a DAG run's parameters, configuration and groups of shards."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st
from vecap_airflow.job import DEFAULT_CONFIG, Job, interval_of_run, split
from vecap_airflow.tasks import fail_permanently, show_label

from vecap_tasks.config import load_config
from vecap_tasks.errors import ConfigError, GateFailed, VecapError


@given(st.lists(st.integers(), max_size=200), st.integers(min_value=1, max_value=50))
def test_split_keeps_the_order_and_balances_groups(items, groups):
    parts = split([str(item) for item in items], groups)
    assert [item for part in parts for item in part] == [str(item) for item in items]
    assert len(parts) == min(groups, len(items))
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("key", "param", "interval"),
    [("2026-01-01", None, "2026-01-01"), (None, "week-3", "week-3"), ("2026-01-01", "2026-01-01", "2026-01-01")],
)
def test_the_interval_is_the_partition_key_or_the_parameter(key, param, interval):
    assert interval_of_run(key, param) == interval


def test_a_job_holds_no_secret_and_airflow_masks_them(tmp_path, monkeypatch):
    masked = []
    monkeypatch.setattr("vecap_airflow.job.mask_secret", masked.append)
    monkeypatch.setenv("SITE_TOKEN", "c4nary-77Qx")
    file = tmp_path / "config.yaml"
    file.write_text(load_config(DEFAULT_CONFIG).model_dump_json())
    job = Job.read(str(file), ["root=/data/${SITE_TOKEN}"], ["2026-01-01"])
    body = job.to_xcom()
    assert "/data/${SITE_TOKEN}" in json.dumps(body)
    assert "c4nary" not in json.dumps(body)
    Job.from_xcom(body).load()
    assert "c4nary-77Qx" in masked


def test_a_missing_or_conflicting_interval_is_an_error():
    with pytest.raises(ConfigError, match="trigger the run with a partition key or an interval"):
        interval_of_run(None, None)
    with pytest.raises(ConfigError, match="set only one"):
        interval_of_run("2026-01-01", "2026-01-02")


def test_a_job_round_trips_through_xcom():
    job = Job.read(DEFAULT_CONFIG, ["train.epochs=3"], ["2026-01-01"])
    again = Job.from_xcom(json.loads(json.dumps(job.to_xcom())))
    assert again == job
    assert again.load().model_dump() == load_config(DEFAULT_CONFIG, ["train.epochs=3"]).model_dump()
    assert again.load().base == Path(DEFAULT_CONFIG).parent
    assert Job.read("configs/demo.yaml", []).load().dataset == "demo"  # relative to the repository


def test_a_job_keeps_its_configuration_if_the_file_changes(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(Path(DEFAULT_CONFIG).read_text())
    job = Job.read(str(file), [])
    file.write_text("nonsense")
    assert job.load().dataset == "demo"


def test_a_permanent_error_fails_the_task_with_one_line():
    with pytest.raises(AirflowFailException, match=r"^too few rows$"), fail_permanently():
        raise GateFailed("too few\nrows")
    with pytest.raises(VecapError), fail_permanently():  # other errors are retried
        raise VecapError("network unreachable")


class Supervisor:
    """Receives the messages of a task in place of Airflow's supervisor process."""

    def __init__(self, error: Exception | None = None) -> None:
        self.labels: list[str] = []
        self._error = error

    def send(self, msg: Any) -> None:
        if self._error is not None:
            raise self._error
        self.labels.append(msg.rendered_map_index)


def test_a_running_task_shows_its_progress_as_its_name(monkeypatch):
    supervisor = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    show_label("2026-01-01/00000: 3 of 12 shards, about 9 s left")
    show_label("x" * 300)  # longer than Airflow's column
    assert supervisor.labels == ["2026-01-01/00000: 3 of 12 shards, about 9 s left", "x" * 250]


def test_a_task_goes_on_if_its_progress_cannot_be_shown(monkeypatch):
    monkeypatch.delattr(task_runner, "SUPERVISOR_COMMS", raising=False)
    show_label("3 of 12 shards")  # outside of a task
    error = AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(error), raising=False)
    show_label("3 of 12 shards")


def test_the_schedule_starts_at_the_installation(monkeypatch):
    from vecap_airflow.job import schedule_from

    monkeypatch.delenv("VECAP_SCHEDULE_FROM", raising=False)
    assert schedule_from() is None
    monkeypatch.setenv("VECAP_SCHEDULE_FROM", "2026-01-01T10:00:00+00:00")
    assert schedule_from() == datetime(2026, 1, 1, 10, tzinfo=UTC)

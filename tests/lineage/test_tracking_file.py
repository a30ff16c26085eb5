"""MLflow's SQLite file stays usable after a kill and with concurrent first runs."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base

from vecap_tasks.config import Config
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.mlflow_lookup import needed_by_mlflow
from vecap_tasks.lineage.walk import walk


@pytest.fixture
def home(home: Path) -> Path:
    """An empty VECAP_HOME without an MLflow database."""
    (home / "mlflow.db").unlink()
    return home


def create_incomplete_database(file: Path) -> None:
    """Create the state after a kill during MLflow's own setup: the first tables, and an unrecorded migration."""
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    engine.dispose()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE datasets (dataset_uuid TEXT)")
    database.close()


def experiment(config: Config, kind: str = "clip") -> str:
    with open_tracking(config) as tracking:
        return tracking.experiment("demo", kind)


def exit_codes(*targets: Callable[[], object]) -> list[int | None]:
    """Call each target in its own process, concurrently; return their exit codes."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=target) for target in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def test_an_incomplete_database_without_data_is_replaced_once_by_concurrent_processes(demo_config: Config) -> None:
    file = Path(os.environ["VECAP_HOME"]) / "mlflow.db"
    create_incomplete_database(file)
    kinds = ("gate", "versions", "clip")
    assert exit_codes(*(lambda kind=kind: experiment(demo_config, kind) for kind in kinds)) == [0, 0, 0]
    with open_tracking(demo_config) as tracking:
        names = {item.name for item in tracking.client.search_experiments()}
    assert names == {"Default", *(f"vecap/demo/{kind}" for kind in kinds)}


def test_a_first_run_that_is_killed_does_not_affect_the_next_one(
    demo_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(os.environ["VECAP_HOME"]) / "mlflow.db"
    with monkeypatch.context() as patch:
        patch.setattr(utils, "_upgrade_db", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert exit_codes(lambda: experiment(demo_config)) == [-signal.SIGKILL]
    assert not file.exists()
    assert Path(f"{file}.new").exists(), "killed while creating the file"
    Path(f"{file}-journal").write_bytes(b"of a file that is gone")
    assert experiment(demo_config) == "1"
    assert sorted(path.name for path in file.parent.glob("mlflow.db*")) == ["mlflow.db", "mlflow.db.lock"]


def test_an_incomplete_database_with_data_is_kept_and_reported(demo_config: Config) -> None:
    file = Path(os.environ["VECAP_HOME"]) / "mlflow.db"
    create_incomplete_database(file)
    with sqlite3.connect(file) as database:
        database.execute("INSERT INTO experiments (experiment_id, name) VALUES (7, 'mine')")
    database.close()
    with pytest.raises(VecapError, match=r"MLflow cannot open sqlite:.*mlflow\.db: .*; restore the database") as error:
        experiment(demo_config)
    assert "\n" not in str(error.value)
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT name FROM experiments").fetchall() == [("mine",)]
    database.close()


def test_a_file_that_is_not_a_database_is_kept_and_reported(demo_config: Config) -> None:
    file = Path(os.environ["VECAP_HOME"]) / "mlflow.db"
    file.write_text("mine")
    with pytest.raises(VecapError, match=r"cannot read .*mlflow\.db: file is not a database; restore it"):
        experiment(demo_config)
    assert file.read_text() == "mine"


def test_reading_a_missing_database_creates_no_file(demo_config: Config) -> None:
    file = Path(os.environ["VECAP_HOME"]) / "mlflow.db"
    with pytest.raises(VecapError, match=rf"^there is no MLflow database {re.escape(str(file))}; set mlflow"):
        walk(demo_config, "models:/demo-clip@champion")
    needed = needed_by_mlflow(demo_config, {"2026-01-01": "0" * 64})
    assert needed["2026-01-01"].startswith("not recorded in MLflow: there is no MLflow database")
    assert not any(file.parent.glob("mlflow.db*"))

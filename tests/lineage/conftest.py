"""Fixtures that create MLflow's tables once and copy the database for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import build_once
from vecap_tasks.core.mlflow_database import ensure_database


@pytest.fixture(scope="session")
def tables(shared_folder: Path) -> Path:
    """MLflow's SQLite file with empty tables."""
    return build_once(
        shared_folder / "mlflow-tables", lambda folder: ensure_database(folder / "mlflow.db", "mlflow-artifacts")
    )


@pytest.fixture
def home(home: Path, tables: Path) -> Path:
    """An empty VECAP_HOME with an empty MLflow database."""
    shutil.copy(tables / "mlflow.db", home)
    return home

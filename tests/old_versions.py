"""Unpack the versions that an earlier release made (`tests/data/versions`)."""

from __future__ import annotations

import sqlite3
import tarfile
from pathlib import Path

from tests.installation import REPOSITORY

ARCHIVE = REPOSITORY / "tests" / "data" / "versions" / "0.1.0.tar.xz"
MODELS = REPOSITORY / "vecap_tasks" / "demo" / "models"
VERSIONS = ("2026-01-01", "2026-01-02", "2026-01-02-r2")
_MADE_IN = "/srv/vecap-fixture"
# MLflow stores absolute paths; every column that has one.
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def unpack(home: Path) -> Path:
    """Unpack the versions into *home*; return their configuration file with the present setting names."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home, filter="data")
    database = sqlite3.connect(home / "mlflow.db")
    with database:
        for table, column in _PATHS:
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (_MADE_IN, str(home)))
    database.close()
    config = home / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("licence:", "license:"), encoding="utf-8")
    return config

"""Unpack versions that an earlier release created (`tests/data/versions`)."""

from __future__ import annotations

import re
import sqlite3
import tarfile
from pathlib import Path

from tests.installation import REPOSITORY

ARCHIVE = REPOSITORY / "tests" / "data" / "versions" / "0.1.0.tar.xz"
MODELS = REPOSITORY / "vecap_tasks" / "demo" / "models"
VERSIONS = ("2026-01-01", "2026-01-02", "2026-01-02-r2")
_ORIGINAL_HOME = "/srv/vecap-fixture"
# Columns in which MLflow stores absolute paths.
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def unpack(home: Path) -> Path:
    """Unpack the versions into *home*; return their configuration file with current setting names."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home, filter="data")
    database = sqlite3.connect(home / "mlflow.db")
    with database:
        for table, column in _PATHS:
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (_ORIGINAL_HOME, str(home)))
    database.close()
    config = home / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("licence:", "license:")
    config.write_text(re.sub(r"mixed_p: (0\.5)\b", r"texts: {mixed: {alttext: \1, vecap: \1}}", text), encoding="utf-8")
    return config

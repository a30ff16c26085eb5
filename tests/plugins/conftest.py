"""Adds `plugins/` to the path, as Airflow does."""

import os
import sys
import tempfile
from pathlib import Path

# Set before importing airflow, which writes its configuration there.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="vecap-airflow-"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))

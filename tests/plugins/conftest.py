"""`plugins/` is on the path where Airflow reads DAGs, and so it is here."""

import os
import sys
import tempfile
from pathlib import Path

# Before airflow is imported: it writes its configuration where this says.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="vecap-airflow-"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))

"""Three runs of one version start at the same time in a new home: all end well, with the same digests."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from benchmarks.interrupt import Place, miniature_web
from tests.installation import INTERVAL, REPOSITORY, small_config

RUNS = 3
ROUNDS = 3


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
def test_runs_that_start_together_in_a_new_home_end_well(tmp_path: Path) -> None:
    web = tmp_path / "web"
    with miniature_web(web) as port:
        config = small_config(tmp_path)
        digests = [_run_together(_new_home(tmp_path, web, config, port)) for _ in range(ROUNDS)]
    assert len(digests[0]) == len(set(digests[0])) > 5
    assert digests == [digests[0]] * ROUNDS


def _new_home(folder: Path, web: Path, config: Path, port: int) -> Place:
    home = folder / uuid.uuid4().hex
    (home / "tmp").mkdir(parents=True)
    (home / "web").symlink_to(web)
    return Place(home, config, port)


def _run_together(place: Place) -> dict[str, str]:
    """Start the runs, check how they end, and return the digests of the manifests."""
    command = [sys.executable, "-m", "vecap_tasks.cli", "run", "--config", str(place.config), "--version", INTERVAL]
    runs = [
        subprocess.Popen(command, env=place.environment, cwd=REPOSITORY, stdout=-1, stderr=subprocess.STDOUT, text=True)
        for _ in range(RUNS)
    ]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * RUNS, "\n\n".join(outputs)
    assert "Traceback" not in "".join(outputs)
    assert place.temporary() == [] == place.processes()
    return place.digests()

"""All local services with the demo in them, for the tests in this folder; stopped after the last test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import IMAGES, INTERVAL, Installation, environment, services, started_under
from vecap_tasks.local import control


@pytest.fixture(scope="package")
def installation(small: Path) -> Iterator[tuple[Installation, str]]:
    """All services, started once for all tests that need them, and the output of the demo that ran in them.

    The demo and all services were killed during captioning; then the demo was started again and finished.
    """
    # Not in pytest's folder: as root, PostgreSQL runs as another user, which cannot enter that folder.
    with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        variables = {"VECAP_CONFIG": str(small), "VECAP_DEMO_IMAGES": str(IMAGES), "OMP_NUM_THREADS": "1"}
        place = Installation(home, environment(home) | variables)
        try:
            place.demo_killed_at(place.store / INTERVAL / "rewrite", "_shards/*")
            assert control.status(place.settings) is None
            process = place.demo()
            output, _ = process.communicate(timeout=1800)
            assert process.returncode == 0, output
            # The database may have to wait until the kernel releases the killed one's lock.
            restarted = {name: s.starts for name, s in place.state().services.items() if s.starts > 1}
            assert restarted.keys() <= {"postgres"}, restarted
            yield place, output
        finally:
            stopped = services("down", place.env)
        assert stopped.returncode == 0, stopped.stderr
        assert started_under(home) == []

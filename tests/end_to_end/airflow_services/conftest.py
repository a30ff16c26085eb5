"""All services of one machine and the demo in them, for the tests of this folder alone; they end with its last test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import IMAGES, INTERVAL, Installation, environment, services, started_under
from vecap_tasks.local import control


@pytest.fixture(scope="package")
def installation(small: Path) -> Iterator[tuple[Installation, str]]:
    """All services, started once for every test that needs them, and the demo in them, with what it printed.

    The demo and all services were killed at once while it captioned; then it was started again and went to its end.
    """
    # Not in pytest's folder: as root, PostgreSQL runs as another user, to whom each start of pytest closes that folder.
    with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        given = {"VECAP_CONFIG": str(small), "VECAP_DEMO_IMAGES": str(IMAGES), "OMP_NUM_THREADS": "1"}
        place = Installation(home, environment(home) | given)
        try:
            place.demo_killed_at(place.store / INTERVAL / "rewrite", "_shards/*")
            assert control.status(place.settings) is None
            process = place.demo()
            said, _ = process.communicate(timeout=1800)
            assert process.returncode == 0, said
            # The database may have to wait until the kernel has let go of the one that was killed.
            restarted = {name: s.starts for name, s in place.state().services.items() if s.starts > 1}
            assert restarted.keys() <= {"postgres"}, restarted
            yield place, said
        finally:
            ended = services("down", place.env)
        assert ended.returncode == 0, ended.stderr
        assert started_under(home) == []

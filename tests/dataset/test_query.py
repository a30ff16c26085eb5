"""DuckDB over a store: where it spills, and that a path is a path, whatever characters are in it."""

from __future__ import annotations

import gc
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vecap_tasks.dataset.query import connect
from vecap_tasks.dataset.store import Store

NOBODY = 65534
# A sort of some 30 MB.
SORT = "SELECT count(*) FROM (SELECT md5(i::VARCHAR) AS text FROM range(500_000) AS t(i) ORDER BY text OFFSET 1)"


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for temporary files that every user can write, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def as_nobody(act: Callable[[], None], cwd: Path) -> bool:
    """Run *act* in a child process that cannot write its working directory *cwd*; return whether it succeeded."""
    cwd.chmod(0o555)
    child = os.fork()
    if child == 0:
        try:
            os.chdir(cwd)
            if os.geteuid() == 0:  # root can write everywhere
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("given", [True, False], ids=["work", "no-work"])
def test_a_query_spills_where_the_working_directory_cannot_be_written(scratch: Path, given: bool) -> None:
    def sort() -> None:
        work = Path(tempfile.mkdtemp(dir=scratch, prefix="work-")) if given else None
        with connect(Store(str(scratch)), "25MB", threads=1, work=work) as connection:
            assert connection.execute(SORT).fetchall() == [(499_999,)]
            (spill,) = (work or scratch).glob("vecap-duckdb-*")
            assert any(spill.iterdir()), "the query fits into memory, so the test shows nothing"
            assert spill.stat().st_mode & 0o777 == 0o700
        del connection
        gc.collect()
        assert not spill.exists()

    with tempfile.TemporaryDirectory() as cwd:
        assert as_nobody(sort, Path(cwd))
        assert list(Path(cwd).iterdir()) == []

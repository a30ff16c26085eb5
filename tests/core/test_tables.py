"""DuckDB over a store: where it spills, and paths with special characters."""

from __future__ import annotations

import gc
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, create_view, write_sorted
from vecap_tasks.errors import VecapError

NOBODY = 65534
# A sort of about 30 MB.
SORT = "SELECT count(*) FROM (SELECT md5(i::VARCHAR) AS text FROM range(500_000) AS t(i) ORDER BY text OFFSET 1)"


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty temporary folder that every user can write, unlike pytest's."""
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


@pytest.mark.parametrize("with_work", [True, False], ids=["work", "no-work"])
def test_a_query_spills_if_the_working_directory_is_read_only(scratch: Path, with_work: bool) -> None:
    def sort() -> None:
        work = Path(tempfile.mkdtemp(dir=scratch, prefix="work-")) if with_work else None
        with connect(Store(str(scratch)), "25MB", threads=1, work=work) as connection:
            assert connection.execute(SORT).fetchall() == [(499_999,)]
            (spill,) = (work or scratch).glob("vecap-*")
            assert any((spill / "files").iterdir()), "the query fits in memory, so the test proves nothing"
            assert spill.stat().st_mode & 0o777 == 0o700
        del connection
        gc.collect()
        assert not spill.exists()

    with tempfile.TemporaryDirectory() as cwd:
        assert as_nobody(sort, Path(cwd))
        assert list(Path(cwd).iterdir()) == []


# The name of a folder, and another name that it matches as a glob.
NAMES = [("g[o]", "go"), ("it's", "its"), ("a b*?", "a bXY"), ("**", "any"), ('ünï "q"', "uni"), ("key=1", "key=2")]


@pytest.mark.parametrize(
    ("root", "name", "decoy"),
    [*(("file", *names) for names in NAMES), *(("s3", *names) for names in NAMES[:2])],
    indirect=["root"],
)
def test_a_path_is_taken_literally(root: str, name: str, decoy: str) -> None:
    for folder, keys in ((decoy, ["x", "y"]), (name, ["a", "b"])):
        store = Store(f"{root}/{folder}")
        with store.workspace() as work:
            for number, key in enumerate(keys):
                pq.write_table(pa.table({"key": [key]}), work / "keys.parquet")
                store.upload(f"d/{number}.parquet", work / "keys.parquet")
    tables = ["d/0.parquet", "d/1.parquet"]
    with store.workspace() as work, connect(store, work=work) as connection:
        create_view(connection, store, "keys", tables, pa.schema([("key", pa.string())]))
        found = connection.execute("SELECT key, filename FROM keys ORDER BY key").fetchall()
        assert found == [("a", store.query_path(tables[0])), ("b", store.query_path(tables[1]))]
        assert write_sorted(connection, "SELECT key FROM keys", "key", work / "sorted.parquet") == 2
        assert pq.ParquetFile(work / "sorted.parquet").read().to_pydict() == {"key": ["a", "b"]}


def test_a_root_with_a_backslash_is_rejected(tmp_path: Path) -> None:
    """DuckDB treats it as a slash."""
    with pytest.raises(VecapError, match=r"a\\b.* backslash; rename the folder"):
        Store(str(tmp_path / "a\\b"))

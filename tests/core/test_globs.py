"""Paths and globs of a configuration, below folders and files whose names are patterns too."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.conftest import DEMO
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.files import find_files
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets import read_sets
from vecap_tasks.train.data.mixture_builder import find_tars


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder `g[o]` with tars, beside a folder `go` that matches its name."""
    for folder in ("g[o]", "go"):
        (tmp_path / folder).mkdir()
        for name in ("0.tar", "1[2].tar", "12.tar"):
            with tarfile.open(tmp_path / folder / name, "w"):
                pass
    return tmp_path / "g[o]"


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("0.tar", ["0.tar"]),
        ("1[2].tar", ["1[2].tar"]),
        ("1*.tar", ["12.tar", "1[2].tar"]),
        ("[0-9].tar", ["0.tar"]),
        ("../g*/0.tar", ["../g[o]/0.tar", "../go/0.tar"]),
    ],
)
def test_what_exists_is_taken_literally(given: Path, demo_config: Config, written: str, names: list[str]) -> None:
    found = [f"{given}/{name}" for name in names]
    assert list(find_files(demo_config, [f"{given}/{written}"], kind="tar", setting="x")) == found
    assert list(find_tars(demo_config, [f"{given}/{written}"])) == found


def test_an_evaluation_set_is_read_from_its_own_folder(given: Path) -> None:
    """The configuration's own folder is put before the paths that it names."""
    with tarfile.open(given.parent / "go" / "9.tar", "w"):
        pass

    def read(pattern: str) -> tuple[str, ...]:
        sets = {"retrieval": [{"kind": "webdataset", "name": "a", "paths": [pattern]}]}
        return read_sets(load_config(DEMO, [f"evaluate={json.dumps(sets)}"]).with_base(given)).retrieval[0].captions

    with pytest.raises(VecapError, match=r"there is no tar file .*g\[o\]/9\*; .* change the paths of a in evaluate"):
        read("9*")
    with pytest.raises(VecapError, match=r"not from s3://bucket/9\.tar; copy it here"):
        read("s3://bucket/9.tar")
    assert read("*.tar") == ()

"""Paths and globs of a configuration, in folders and files whose names contain glob characters."""

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
def folder(tmp_path: Path) -> Path:
    """A folder `g[o]` with tars, next to a folder `go` that its name matches as a glob."""
    for name in ("g[o]", "go"):
        (tmp_path / name).mkdir()
        for tar in ("0.tar", "1[2].tar", "12.tar"):
            with tarfile.open(tmp_path / name / tar, "w"):
                pass
    return tmp_path / "g[o]"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("0.tar", ["0.tar"]),
        ("1[2].tar", ["1[2].tar"]),
        ("1*.tar", ["12.tar", "1[2].tar"]),
        ("[0-9].tar", ["0.tar"]),
        ("../g*/0.tar", ["../g[o]/0.tar", "../go/0.tar"]),
    ],
)
def test_existing_names_are_taken_literally(folder: Path, demo_config: Config, pattern: str, names: list[str]) -> None:
    found = [f"{folder}/{name}" for name in names]
    assert list(find_files(demo_config, [f"{folder}/{pattern}"], kind="tar", setting="x")) == found
    assert list(find_tars(demo_config, [f"{folder}/{pattern}"])) == found


def test_an_evaluation_set_is_read_from_its_own_folder(folder: Path) -> None:
    """Relative paths start from the configuration's folder."""
    with tarfile.open(folder.parent / "go" / "9.tar", "w"):
        pass

    def read(pattern: str) -> tuple[str, ...]:
        sets = {"retrieval": [{"kind": "webdataset", "name": "a", "paths": [pattern]}]}
        return read_sets(load_config(DEMO, [f"evaluate={json.dumps(sets)}"]).with_base(folder)).retrieval[0].captions

    with pytest.raises(VecapError, match=r"tar file .*g\[o\]/9\* not found; .* change the paths of a in evaluate"):
        read("9*")
    with pytest.raises(VecapError, match=r"s3://bucket/9\.tar is not a local path; copy it"):
        read("s3://bucket/9.tar")
    assert read("*.tar") == ()

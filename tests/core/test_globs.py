"""Paths and globs of a configuration, below folders and files whose names are patterns too."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from vecap_tasks.config import CaptionTars, Config
from vecap_tasks.core.files import find_files
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets.classes import read_caption_tars
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
    assert list(find_files(demo_config, [f"{given}/{written}"], "2026-01-01", "tar")) == found
    assert [tar.path for tar in find_tars(demo_config, [f"{given}/{written}"])] == found


def test_an_evaluation_set_is_read_from_its_own_folder(given: Path) -> None:
    """The configuration's own folder is put before the paths that it names."""
    source = CaptionTars(kind="webdataset", name="a", paths=["*.tar"])
    with tarfile.open(given.parent / "go" / "9.tar", "w"):
        pass
    with pytest.raises(VecapError, match=r"nothing matches .*g\[o\]/9\*"):
        read_caption_tars(source, [f"{given}/9*"])
    assert read_caption_tars(source, [f"{given}/*.tar"]).captions == ()

"""Digests of model folders are part of fingerprints: the same files have the same digest in every release."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vecap_tasks.config import ClipScore, Config
from vecap_tasks.core.models import find_checkpoint, init_digest, tokenizer_digest
from vecap_tasks.quality.clip_scores import find_clip

FILES = (
    "config.json", "generation_config.json", "other.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.json", "merges.txt",
    "spiece.model", "chat_template.jinja", "README.md",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every kind of file; each contains its own name."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def config(demo_config: Config, folder: Path) -> Config:
    model = demo_config.train.model.model_copy(update={"tokenizer": str(folder), "init_from": str(folder)})
    train = demo_config.train.model_copy(update={"model": model})
    return demo_config.model_copy(update={"train": train})


def test_digests_match_those_of_earlier_releases(config: Config, folder: Path) -> None:
    settings = ClipScore(model=str(folder))
    checkpoint, clip = find_checkpoint(config, str(folder)), find_clip(config, settings)
    assert (checkpoint.digest, checkpoint.bytes) == (
        "475d32acbf06f794ca22810eaa18df95e3a5ce3d5edbcb0a61ec781eeff8ffa5",
        150,
    )
    assert (clip.digest, clip.bytes) == ("ede666896aa7dd4dc4234c3b49a9a1555a8e7361536673e5cced7ac2ac13077f", 153)
    assert tokenizer_digest(config) == "af82e2d99a2c3b05e9607b67b301c19a2722090ca0ff6447ffbf0b030029cd92"
    assert init_digest(config) == "3f2ea62b8dc5aea02d9679c668cf647b6a2736c7516a0da8fbd697427c4928be"


def test_pickled_weights_count_only_without_safetensors(config: Config, folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert (
        find_checkpoint(config, str(folder)).digest
        == "9dc41e0121c4597f9acdf17d1093e39d27b9a53c6cb7abb0112db776e57aaa8a"
    )
    assert init_digest(config) == "edc050a98b0c3438881d2debfc9af49336a2c412156ebd8b9572dd4aa24bd5c3"


def test_a_file_is_hashed_again_after_its_size_or_time_changed(config: Config, folder: Path) -> None:
    first = find_checkpoint(config, str(folder)).digest
    file = folder / "config.json"
    file.write_text("CONFIG.json")
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert find_checkpoint(config, str(folder)).digest != first
    file.write_text("config.json")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 2))
    assert find_checkpoint(config, str(folder)).digest == first

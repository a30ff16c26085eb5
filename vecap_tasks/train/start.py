"""The model that a run starts from, on disk: where it lies and the digest that names it. No transformers here."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from vecap_tasks.config import Config
from vecap_tasks.dataset.manifest import digest
from vecap_tasks.errors import ConfigError


def start_folder(config: Config) -> Path | None:
    """Return the folder that `train.model.start` names, None where it names none. Raises ConfigError."""
    name = config.resolve_optional(config.train.model.start)
    if name is None:
        return None
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"train.model.start: {folder} holds no config.json; give the folder of a CLIPModel")
    return folder


def start_digest(config: Config) -> str | None:
    """Return the sha256 over configuration and weights of the start, None where there is none. Raises ConfigError."""
    folder = start_folder(config)
    if folder is None:
        return None
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise ConfigError(f"train.model.start: {folder} holds no weights (*.safetensors); copy or download them again")
    stats = [(file, file.stat()) for file in (folder / "config.json", *weights)]
    return digest({file.name: _sha256(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats})


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, modified: int) -> str:
    """Return the file's sha256; size and time of change are there to be the cache's key."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

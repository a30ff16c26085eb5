"""The configured tokenizer on disk: where it lies and the digest that names it.

No transformers here: a fingerprint needs the digest of the files, not the tokenizer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from vecap_tasks.config import Config, expand
from vecap_tasks.dataset.manifest import digest
from vecap_tasks.errors import ConfigError

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
)


def tokenizer_place(config: Config) -> str:
    """Return the configured tokenizer's folder, or the hub's name where there is no such folder."""
    name = config.train.model.tokenizer
    folder = Path(config.resolve(name))
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~", "$")):
        raise ConfigError(f"train.model.tokenizer: there is no folder {folder}; give a folder with tokenizer.json")
    return expand(name)


def tokenizer_digest(config: Config) -> str:
    """Return the sha256 over the tokenizer's files, or over the name of one that a hub has."""
    place = tokenizer_place(config)
    folder = Path(place)
    if not folder.is_dir():
        return digest({"hub": place})
    found = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _FILES if (folder / name).is_file()
    }
    if not found:
        raise ConfigError(f"train.model.tokenizer: {folder} holds no tokenizer; give a folder with tokenizer.json")
    return digest(found)

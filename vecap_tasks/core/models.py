"""Model folders and tokenizers on disk (place, completeness, digest), and the device that a model runs on."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vecap_tasks.config import Config, ModelConfig, expand
from vecap_tasks.core.manifest import digest
from vecap_tasks.errors import ConfigError, PermanentError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What transformers reads from a model's folder. A README, figures or an optimizer's state change no caption.
_FILES = re.compile(
    r"(?:config|generation_config|preprocessor_config|processor_config|chat_template|tokenizer|tokenizer_config"
    r"|special_tokens_map|added_tokens|vocab|model\.safetensors\.index|pytorch_model\.bin\.index)\.json"
    r"|chat_template\.jinja|tokenizer\.model|vocab\.txt|merges\.txt"
)
_TOKENIZER_FILES = (
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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that transformers can load. `name` is as configured, `digest` a sha256 over the files' digests."""

    name: str
    folder: Path
    digest: str
    bytes: int

    @property
    def revision(self) -> str:
        """How a caption's row names the model's revision: the first 16 digits of the digest."""
        return self.digest[:16]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model behind an address. Its weights are not here to be digested: `digest` covers its name and revision."""

    name: str
    revision: str  # as the configuration states it, else `unstated`

    @property
    def digest(self) -> str:
        return digest({"served": self.name, "revision": self.revision})

    @property
    def bytes(self) -> None:
        return None


def find_model(config: Config, settings: ModelConfig) -> Checkpoint | ServedModel:
    """Return what *settings* name. Raises VecapError for a folder that is no model's; a server is not asked here."""
    if settings.server is not None:
        return ServedModel(settings.model, settings.server.revision or "unstated")
    return find_checkpoint(config, settings.model)


def find_checkpoint(config: Config, model: str) -> Checkpoint:
    """Return the checkpoint that *model* names: a folder, or a model of the hub that lies in its local cache.

    Nothing is downloaded here: a fingerprint must not depend on what a hub says today. Raises VecapError, naming
    the folder and what it lacks.
    """
    folder = Path(config.resolve(model))
    hub_name = expand(model)
    if not folder.is_dir() and _HUB_NAME.fullmatch(hub_name):
        cached = _cached(hub_name)
        if cached is None:
            raise PermanentError(
                f"model {model}: there is no folder {folder}, and no such model in the local hub cache; "
                f"correct the path, or run `hf download {hub_name}`"
            )
        folder = cached
    if not folder.is_dir():
        raise PermanentError(f"model {model}: there is no folder {folder}; correct the path in the configuration")
    weights = _weights(folder)
    files = [*weights, *(file for file in folder.iterdir() if file.is_file() and _FILES.fullmatch(file.name))]
    if folder / "config.json" not in files:
        raise PermanentError(
            f"model {model}: {folder} has no config.json; give the folder of a transformers checkpoint"
        )
    if not weights:
        raise PermanentError(f"model {model}: {folder} has no weights (*.safetensors); copy or download them again")
    return digest_checkpoint(model, folder, files)


def digest_checkpoint(name: str, folder: Path, files: Collection[Path]) -> Checkpoint:
    """Return the checkpoint *name* whose digest covers *files* of *folder*."""
    return Checkpoint(name, folder, digest(sorted(hash_files(files).items())), sum(one.stat().st_size for one in files))


def hash_files(files: Iterable[Path]) -> dict[str, str]:
    """Return the sha256 of *files* by name, without reading again what kept its size and its time of change."""
    stats = [(file, file.stat()) for file in files]
    return {file.name: _sha256(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats}


def _weights(folder: Path) -> list[Path]:
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if found := [file for file in folder.glob(pattern) if file.is_file()]:
            return found
    return []


def _cached(hub_name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, modified: int) -> str:
    """Return the file's sha256; its size and its time of change are part of the cache's key."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    files = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        raise ConfigError(f"train.model.tokenizer: {folder} holds no tokenizer; give a folder with tokenizer.json")
    return digest(hash_files(files))


def start_folder(config: Config) -> Path | None:
    """Return the folder that `train.model.init_from` names, None where it names none. Raises ConfigError."""
    name = config.resolve_optional(config.train.model.init_from)
    if name is None:
        return None
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"train.model.init_from: {folder} holds no config.json; give the folder of a CLIPModel")
    return folder


def start_digest(config: Config) -> str | None:
    """Return the sha256 over configuration and weights of the start, None where there is none. Raises ConfigError."""
    folder = start_folder(config)
    if folder is None:
        return None
    weights = _weights(folder)
    if not weights:
        raise ConfigError(
            f"train.model.init_from: {folder} holds no weights (*.safetensors); copy or download them again"
        )
    return digest(hash_files([folder / "config.json", *weights]))


def open_device(setting: str, name: str) -> torch.device:
    """Return the torch device *name*, which *setting* (such as `train.device`) names.

    Logs one line, once in a process for each setting, where a GPU stays unused. Raises ConfigError for a device that is
    not there.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{setting}: device {name!r} is not there: {reason}; set it to cpu, or give the worker such a device"
        ) from error
    if device.type == "cpu" and torch.cuda.is_available():
        _tell_unused(setting)
    return device


@lru_cache(maxsize=16)
def _tell_unused(setting: str) -> None:
    """Log that the GPU stays unused; the cache has it said once."""
    log.warning("%s is cpu and there is a GPU, which stays unused; %s=cuda uses it", setting, setting)

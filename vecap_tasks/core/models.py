"""Model folders and tokenizers on disk (lookup, completeness, digest), and torch devices."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vecap_tasks.config import Config, ModelConfig, expand
from vecap_tasks.core.manifest import digest
from vecap_tasks.errors import ConfigError, PermanentError, similar_file

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Files that transformers reads from a model's folder. Others, such as README files, do not affect captions.
_FILES = re.compile(
    r"(?:config|generation_config|preprocessor_config|processor_config|chat_template|tokenizer|tokenizer_config"
    r"|special_tokens_map|added_tokens|vocab|model\.safetensors\.index|pytorch_model\.bin\.index)\.json"
    r"|chat_template\.jinja|tokenizer\.model|vocab\.txt|merges\.txt"
)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
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
        """The model's revision in the columns of a caption's row: the first 16 digits of the digest."""
        return self.digest[:16]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model on a server. Its weights cannot be hashed: `digest` covers its name and revision."""

    name: str
    revision: str  # as configured, else `unstated`

    @property
    def digest(self) -> str:
        return digest({"served": self.name, "revision": self.revision})

    @property
    def bytes(self) -> None:
        return None


def find_model(config: Config, settings: ModelConfig) -> Checkpoint | ServedModel:
    """Return the model that *settings* name, without a request to a server. Raises VecapError for an invalid folder."""
    if settings.server is not None:
        return ServedModel(settings.model, settings.server.revision or "unstated")
    return find_checkpoint(config, settings.model)


def find_checkpoint(config: Config, model: str) -> Checkpoint:
    """Return the checkpoint that *model* names: a folder, or a Hub model in the local cache.

    Nothing is downloaded, so that a fingerprint does not depend on the Hub's current state. Raises VecapError naming
    the folder and what is missing.
    """
    folder, files = checkpoint_files(config, model)
    return digest_checkpoint(model, folder, files)


def checkpoint_files(config: Config, model: str) -> tuple[Path, list[Path]]:
    """Return the folder that `find_checkpoint` finds for *model*, and its files; reads none of them.

    Raises VecapError naming the folder and what is missing.
    """
    folder = Path(config.resolve(model))
    hub_name = expand(model)
    if not folder.is_dir() and HUB_NAME.fullmatch(hub_name):
        cached = _cached(hub_name)
        if cached is None:
            raise PermanentError(
                f"model {model}: folder {folder} does not exist, and the local Hub cache has no such model; "
                f"correct the path, or run `hf download {hub_name}`"
            )
        folder = cached
    if not folder.is_dir():
        raise PermanentError(
            f"model {model}: folder {folder} does not exist{similar_file(folder)}; correct the path in the "
            "configuration"
        )
    weights = _weights(folder)
    files = [*weights, *(file for file in folder.iterdir() if file.is_file() and _FILES.fullmatch(file.name))]
    if folder / "config.json" not in files:
        raise PermanentError(f"model {model}: {folder} has no config.json; use the folder of a transformers checkpoint")
    if not weights:
        raise PermanentError(f"model {model}: {folder} has no weights (*.safetensors); copy or download them again")
    return folder, files


def check_checkpoint(config: Config, model: str) -> None:
    """Raise VecapError unless *model* is a folder with weights and the configuration of a model; hashes nothing."""
    folder, _ = checkpoint_files(config, model)
    file = folder / "config.json"
    try:
        if "model_type" not in json.loads(file.read_bytes()):
            raise ValueError("it has no model_type")
    except ValueError as error:
        raise PermanentError(
            f"{file} is not the configuration of a model: {error}; copy or download the model again"
        ) from error


def digest_checkpoint(name: str, folder: Path, files: Collection[Path]) -> Checkpoint:
    """Return the checkpoint *name* whose digest covers *files* of *folder*."""
    size = sum(file.stat().st_size for file in files)
    return Checkpoint(name, folder, digest(sorted(hash_files(files).items())), size)


def hash_files(files: Iterable[Path]) -> dict[str, str]:
    """Return the sha256 of *files* by name; files with unchanged size and modification time are not read again."""
    stats = [(file, file.stat()) for file in files]
    return {file.name: _sha256(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats}


def forget_hashes() -> None:
    """Read all files again at the next call of `hash_files`."""
    _sha256.cache_clear()


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
    """Return the file's sha256; size and modification time are part of the cache key."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tokenizer_path(config: Config) -> str:
    """Return the configured tokenizer's folder, or its Hub name if no such folder exists."""
    name = config.training.model.tokenizer
    folder = Path(config.resolve(name))
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~", "$")):
        raise ConfigError(f"train.model.tokenizer: folder {folder} does not exist; use a folder with tokenizer.json")
    return expand(name)


def tokenizer_digest(config: Config) -> str:
    """Return the sha256 over the tokenizer's files, or over its Hub name."""
    name = tokenizer_path(config)
    folder = Path(name)
    if not folder.is_dir():
        return digest({"hub": name})
    files = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        raise ConfigError(f"train.model.tokenizer: {folder} has no tokenizer; use a folder with tokenizer.json")
    return digest(hash_files(files))


INIT_SETTINGS = ("init_from", "vision_init_from", "text_init_from")


def init_folder(config: Config, setting: str = "init_from") -> Path | None:
    """Return the folder in `train.model.<setting>`, one of `INIT_SETTINGS`; None if unset. Raises ConfigError."""
    name = config.resolve_optional(getattr(config.training.model, setting))
    if name is None:
        return None
    folder = Path(name)
    if not (folder / "config.json").is_file():
        kind = "CLIPModel" if setting == "init_from" else "model"
        raise ConfigError(f"train.model.{setting}: {folder} has no config.json; use the folder of a {kind}")
    return folder


def init_digest(config: Config, setting: str = "init_from") -> str | None:
    """Return the sha256 over config and weights of `train.model.<setting>`, None if unset. Raises ConfigError.

    It also covers the settings of a tower's image processor. Those of `init_from` are not covered, so that lineages of
    earlier releases stay unchanged; the fingerprint of `train` has its mean and deviation.
    """
    folder = init_folder(config, setting)
    if folder is None:
        return None
    weights = _weights(folder)
    if not weights:
        raise ConfigError(
            f"train.model.{setting}: {folder} has no weights (*.safetensors); copy or download them again"
        )
    others = PROCESSOR_FILES if setting == "vision_init_from" else ()
    return digest(hash_files([folder / "config.json", *(f for n in others if (f := folder / n).is_file()), *weights]))


def open_device(setting: str, name: str) -> torch.device:
    """Return the torch device *name* of *setting* (such as `train.device`).

    Warns once per process and setting if a GPU stays unused. Raises ConfigError if the device is not available.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{setting}: device {name!r} is not available: {reason}; set it to cpu, or run on a worker with that device"
        ) from error
    if device.type == "cpu" and torch.cuda.is_available():
        _warn_unused_gpu(setting)
    return device


@lru_cache(maxsize=16)  # warn once
def _warn_unused_gpu(setting: str) -> None:
    log.warning("%s is cpu, but a GPU is available; set %s=cuda to use it", setting, setting)

"""A model on disk: where it lies, whether it can be one, and the digest that names its revision; or one that is served.

No torch here: a fingerprint needs the digest of the files, not the model.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vecap_tasks.config import Config, ModelConfig, expand
from vecap_tasks.dataset.manifest import digest
from vecap_tasks.errors import VecapError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What transformers reads from a model's folder. A README, figures or an optimizer's state change no caption.
_FILES = re.compile(
    r"(?:config|generation_config|preprocessor_config|processor_config|chat_template|tokenizer|tokenizer_config"
    r"|special_tokens_map|added_tokens|vocab|model\.safetensors\.index|pytorch_model\.bin\.index)\.json"
    r"|chat_template\.jinja|tokenizer\.model|vocab\.txt|merges\.txt"
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
            raise VecapError(
                f"model {model}: there is no folder {folder}, and no such model in the local hub cache; "
                f"correct the path, or run `hf download {hub_name}`"
            )
        folder = cached
    if not folder.is_dir():
        raise VecapError(f"model {model}: there is no folder {folder}; correct the path in the configuration")
    files = _files(folder)
    if folder / "config.json" not in files:
        raise VecapError(f"model {model}: {folder} has no config.json; give the folder of a transformers checkpoint")
    if not any(file.suffix in (".safetensors", ".bin") for file in files):
        raise VecapError(f"model {model}: {folder} has no weights (*.safetensors); copy or download them again")
    stats = [(file, file.stat()) for file in files]
    named = [(file.name, _sha256(str(file), stat.st_size, stat.st_mtime_ns)) for file, stat in stats]
    return Checkpoint(model, folder, digest(sorted(named)), sum(stat.st_size for _, stat in stats))


def _files(folder: Path) -> list[Path]:
    everything = sorted(file for file in folder.iterdir() if file.is_file())
    weights = [file for file in everything if file.suffix == ".safetensors"]
    weights = weights or [file for file in everything if file.match("pytorch_model*.bin")]
    return [*weights, *(file for file in everything if _FILES.fullmatch(file.name))]


def _cached(hub_name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, modified: int) -> str:
    """Return the file's sha256; size and time of change are there to be the cache's key."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

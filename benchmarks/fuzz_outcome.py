"""The result of one input, and the folder of the files that readers open."""

from __future__ import annotations

import atexit
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.fuzz_lists import IMAGES
from vecap_tasks.errors import Failure, VecapError, failure_of


class PropertyError(Exception):
    """A result violates a property that holds for every input."""


@dataclass(slots=True)
class Outcome:
    """The result for one input: accepted rows, and refusals by reason. `unexpected` counts as a refusal of its row."""

    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def item(self, read: Callable[[], Any]) -> Any:
        """Return the result of *read*, None if it fails with a reason, as in the stages: any error costs one item."""
        try:
            return self.whole(read)
        except Exception as error:
            failure = failure_of(error, "the input")  # raises what ends a stage
            self.refused[failure.reason] += 1
        return None

    def whole(self, read: Callable[[], Any]) -> Any:
        """Return the result of *read*, None if it refuses the input. Any other error ends a stage."""
        try:
            return read()
        except VecapError as error:
            self.refused[f"file.{type(error).__name__}"] += 1
            _check_message(str(error))
        except Failure as failure:
            self.refused[failure.reason] += 1
        return None


def _check_message(message: str) -> None:
    if not message.strip() or len(message) > 20_000:
        raise PropertyError(f"an error message has {len(message)} characters")


_folders: list[Path] = []


def use_folder(folder: Path) -> None:
    """Write the files that readers open to *folder*."""
    _folders[:] = [folder]


@lru_cache(maxsize=1)
def work_folder() -> Path:
    """Return the folder for files, with the images of the evaluation sets."""
    if not _folders:
        temporary = tempfile.TemporaryDirectory(prefix="vecap-fuzz-")
        atexit.register(temporary.cleanup)
        use_folder(Path(temporary.name))
    (folder,) = _folders
    (folder / "images").mkdir()
    for name in IMAGES:
        Image.new("RGB", (4, 4)).save(folder / "images" / name)
    return folder


def write_input(name: str, data: bytes) -> Path:
    path = work_folder() / name
    path.write_bytes(data)
    return path


def text_of(data: bytes) -> str:
    """Return *data* as text, with lone surrogates if it encodes any."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")

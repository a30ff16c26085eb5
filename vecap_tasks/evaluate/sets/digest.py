"""By what a set is known: a sha256 over its words, its order and the bytes of its images.

Where the files lie and in which format is not part of it. ImageNet's 50,000 images are 6 GB: so that not every task of
a stage reads them all, the digest of images whose files have kept name, size and time of change is remembered. It is
only a short cut for finding what is done already: commit and audit read every byte.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from vecap_tasks.dataset.manifest import digest
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets.given import EvaluationSets
from vecap_tasks.evaluate.sets.kinds import RetrievalSet, ZeroShotSet
from vecap_tasks.evaluate.sets.picture import Picture

log = logging.getLogger(__name__)


def sets_digests(sets: EvaluationSets, *, remembered: bool) -> dict[str, str]:
    """Return the digest of each set by `retrieval` or `zero_shot`, with `:name` where it has one.

    *remembered* allows the short cut. Raises VecapError for an image that cannot be read.
    """
    found: dict[str, str] = {}
    for kind, of_kind in (("retrieval", sets.retrieval), ("zero_shot", sets.zero_shot)):
        for one in of_kind:
            found[f"{kind}:{one.name}" if one.name else kind] = _set_digest(one, remembered=remembered)
    return found


def _set_digest(one: RetrievalSet | ZeroShotSet, *, remembered: bool) -> str:
    body = {name: value for name, value in asdict(one).items() if name not in ("name", "pictures")}
    return digest(body | {"pictures": _pictures_digest(one.pictures, remembered=remembered)})


def _pictures_digest(pictures: Sequence[Picture], *, remembered: bool) -> str:
    memory = _memory() / digest(_stamps(pictures))
    if remembered and memory.is_file():
        known = memory.read_text(encoding="ascii")
        if len(known) == 64:
            return known
    with ThreadPoolExecutor() as pool:
        made = digest(list(pool.map(lambda picture: hashlib.sha256(picture.read()).hexdigest(), pictures)))
    _remember(memory, made)
    return made


def _remember(memory: Path, made: str) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False, encoding="ascii") as aside:
            aside.write(made)
        Path(aside.name).replace(memory)
    except OSError as error:  # a home that cannot be written to costs time, nothing else
        log.info("the digest of an evaluation set is not remembered: %s", error)


def _stamps(pictures: Sequence[Picture]) -> list[list[str | int | None]]:
    try:
        states = {file: file.stat() for file in {picture.file for picture in pictures}}
    except OSError as error:
        raise VecapError(f"{error.filename} of the evaluation set cannot be read: {error.strerror}") from error
    return [
        [str(one.file), one.offset, one.size, states[one.file].st_size, states[one.file].st_mtime_ns]
        for one in pictures
    ]


def _memory() -> Path:
    """Return the folder for digests, under the user's cache (XDG Base Directory)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vecap" / "digests"

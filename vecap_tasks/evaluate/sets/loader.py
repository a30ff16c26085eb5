"""All evaluation sets that a configuration names, and the digests that identify them."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import assert_never

from vecap_tasks.config import (
    CaptionTable,
    CaptionTars,
    ClassFolders,
    ClassTable,
    ClassTars,
    Config,
    KarpathySet,
    RetrievalSource,
    TokenSet,
    ZeroShotSource,
)
from vecap_tasks.core.files import find_files
from vecap_tasks.core.manifest import digest
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.evaluate.sets.captions import read_caption_table, read_karpathy, read_tokens
from vecap_tasks.evaluate.sets.classes import (
    read_caption_tars,
    read_class_folders,
    read_class_table,
    read_class_tars,
    read_names,
    read_templates,
)
from vecap_tasks.evaluate.sets.types import ImageFile, RetrievalSet, ZeroShotSet

log = logging.getLogger(__name__)

_FILES = ("captions.csv", "labels.csv", "classes.txt", "templates.txt")


@dataclass(frozen=True, slots=True)
class EvaluationSets:
    """The sets of both tasks, in the configuration's order; that of `evaluate.dataset` first, with the name ""."""

    retrieval: tuple[RetrievalSet, ...]
    zero_shot: tuple[ZeroShotSet, ...]


def read_sets(config: Config) -> EvaluationSets:
    """Read what `evaluate` names. Raises VecapError naming file and line for anything that cannot be used."""
    settings = config.evaluate
    retrieval = [_retrieval(config, source) for source in settings.retrieval]
    zero_shot = [_zero_shot(config, source) for source in settings.zero_shot]
    if (folder := config.resolve_optional(settings.dataset)) is not None:
        captioned, classified = _read_folder(Path(folder))
        retrieval, zero_shot = [captioned, *retrieval], [classified, *zero_shot]
    return EvaluationSets(tuple(retrieval), tuple(zero_shot))


def _retrieval(config: Config, source: RetrievalSource) -> RetrievalSet:
    match source:
        case KarpathySet():
            return read_karpathy(source, _path(config, source.path), _path(config, source.images))
        case TokenSet():
            split = None if source.split is None else _path(config, source.split)
            return read_tokens(source, _path(config, source.path), _path(config, source.images), split)
        case CaptionTable():
            return read_caption_table(source, _path(config, source.path), _path(config, source.images))
        case CaptionTars():
            return read_caption_tars(source, _tars(config, source))
        case _:
            assert_never(source)


def _zero_shot(config: Config, source: ZeroShotSource) -> ZeroShotSet:
    classes = read_names(_path(config, source.classes), source.key)
    templates = read_templates(_path(config, source.templates), source.key)
    match source:
        case ClassFolders():
            return read_class_folders(source, _path(config, source.images), classes, templates)
        case ClassTable():
            return read_class_table(
                source, _path(config, source.path), _path(config, source.images), classes, templates
            )
        case ClassTars():
            return read_class_tars(source, _tars(config, source), classes, templates)
        case _:
            assert_never(source)


def _read_folder(folder: Path) -> tuple[RetrievalSet, ZeroShotSet]:
    """Read the one folder of `evaluate.dataset`, which has the files of both tasks; images are named relative to it.

    captions.csv    header image,caption; an image may stand in several rows, one for each of its captions
    labels.csv      header image,label; a label is a line of classes.txt
    classes.txt     the names of the classes, one a line
    templates.txt   sentences with {} in the place of the name, one a line
    """
    if not folder.is_dir():
        raise PermanentError(f"there is no evaluation set at {folder}; make it, or correct evaluate.dataset")
    for name in _FILES:
        if not (folder / name).is_file():
            raise PermanentError(
                f"the evaluation set {folder} has no {name}; make it again, or correct evaluate.dataset"
            )
    captions = CaptionTable(kind="csv", name="dataset", path="", images="")
    labels = ClassTable(kind="csv", name="dataset", path="", images="", classes="", templates="")
    classes = read_names(folder / "classes.txt", None)
    templates = read_templates(folder / "templates.txt", None)
    captioned = read_caption_table(captions, folder / "captions.csv", folder)
    classified = read_class_table(labels, folder / "labels.csv", folder, classes, templates)
    return (
        RetrievalSet("", captioned.images, captioned.captions, captioned.caption_of),
        ZeroShotSet("", classified.images, classified.labels, classes, templates),
    )


def _tars(config: Config, source: CaptionTars | ClassTars) -> list[Path]:
    patterns = [str(_path(config, path)) for path in source.paths]
    files = find_files(config, patterns, kind="tar", setting=f"the paths of {source.name} in evaluate")
    return [Path(file.location) for file in files.values()]


def _path(config: Config, text: str) -> Path:
    resolved = config.resolve(text)
    if "://" in resolved:
        raise PermanentError(f"evaluation sets are read from this machine's disks, not from {text}; copy it here")
    return Path(resolved)


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
    body = {name: value for name, value in asdict(one).items() if name not in ("name", "images")}
    return digest(body | {"pictures": _pictures_digest(one.images, remembered=remembered)})


def _pictures_digest(pictures: Sequence[ImageFile], *, remembered: bool) -> str:
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


def _stamps(pictures: Sequence[ImageFile]) -> list[list[str | int | None]]:
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

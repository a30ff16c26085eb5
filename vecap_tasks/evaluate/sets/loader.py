"""Loading of all configured evaluation sets, and their digests."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import assert_never

from vecap_tasks.config import (
    Aro,
    CaptionFiles,
    CaptionLines,
    CaptionTable,
    CaptionTars,
    ChoiceLines,
    ChoiceSource,
    ClassFolders,
    ClassTable,
    ClassTars,
    Config,
    KarpathySet,
    ProbeFolders,
    ProbeSource,
    ProbeTars,
    RetrievalSource,
    SugarCrepe,
    TokenSet,
    Winoground,
    ZeroShotSource,
)
from vecap_tasks.core.files import find_files
from vecap_tasks.core.manifest import digest
from vecap_tasks.core.stage import Check
from vecap_tasks.errors import PermanentError, VecapError, similar_file
from vecap_tasks.evaluate.sets.captions import (
    read_caption_files,
    read_caption_lines,
    read_caption_table,
    read_karpathy,
    read_tokens,
)
from vecap_tasks.evaluate.sets.choices import read_aro, read_choice_lines, read_sugarcrepe, read_winoground
from vecap_tasks.evaluate.sets.classes import (
    read_caption_tars,
    read_class_folders,
    read_class_table,
    read_class_tars,
    read_names,
    read_probe_folders,
    read_probe_tars,
    read_templates,
)
from vecap_tasks.evaluate.sets.types import ChoiceSet, ImageFile, ProbeSet, RetrievalSet, ZeroShotSet

log = logging.getLogger(__name__)

_Set = RetrievalSet | ZeroShotSet | ChoiceSet | ProbeSet
_FILES = ("captions.csv", "labels.csv", "classes.txt", "templates.txt")


@dataclass(frozen=True, slots=True)
class EvaluationSets:
    """The sets of all tasks in the configuration's order; `evaluate.dataset` comes first, with the name ""."""

    retrieval: tuple[RetrievalSet, ...]
    zero_shot: tuple[ZeroShotSet, ...]
    choices: tuple[ChoiceSet, ...] = ()
    linear_probe: tuple[ProbeSet, ...] = ()


def read_sets(config: Config) -> EvaluationSets:
    """Read the sets of the section `evaluate`. Raises VecapError for unusable files, with their line if possible."""
    settings = config.evaluation
    retrieval = [_retrieval(config, source) for source in settings.retrieval]
    zero_shot = [_zero_shot(config, source) for source in settings.zero_shot]
    if settings.dataset is not None and (found := _read_dataset(config, settings.dataset)) is not None:
        captioned, classified = found
        retrieval, zero_shot = [captioned, *retrieval], [classified, *zero_shot]
    choices = tuple(_choices(config, source) for source in settings.choices)
    probes = tuple(_probe(config, source) for source in settings.linear_probe)
    return EvaluationSets(tuple(retrieval), tuple(zero_shot), choices, probes)


def set_checks(config: Config) -> list[Check]:
    """Return a check for each set of the section `evaluate`; it reads the set and raises as `read_sets` does."""
    settings = config.evaluation
    checks: list[Check] = []
    if (dataset := settings.dataset) is not None:
        checks.append(
            ("evaluate.dataset", lambda: (folder := config.resolve_optional(dataset)) and _read_folder(Path(folder)))
        )
    for number, captioned in enumerate(settings.retrieval):
        checks.append((f"evaluate.retrieval.{number}", partial(_retrieval, config, captioned)))
    for number, classified in enumerate(settings.zero_shot):
        checks.append((f"evaluate.zero_shot.{number}", partial(_zero_shot, config, classified)))
    for number, choices in enumerate(settings.choices):
        checks.append((f"evaluate.choices.{number}", partial(_choices, config, choices)))
    for number, probe in enumerate(settings.linear_probe):
        checks.append((f"evaluate.linear_probe.{number}", partial(_probe, config, probe)))
    return checks


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
            return read_caption_tars(source, _tars(config, source.paths, source.name))
        case CaptionLines():
            return read_caption_lines(source, _path(config, source.path), _path(config, source.images))
        case CaptionFiles():
            return read_caption_files(source, _path(config, source.captions), _path(config, source.images))
        case _:
            assert_never(source)


def _choices(config: Config, source: ChoiceSource) -> ChoiceSet:
    path, images = _path(config, source.path), _path(config, source.images)
    match source:
        case SugarCrepe():
            return read_sugarcrepe(source, path, images)
        case Aro():
            return read_aro(source, path, images)
        case ChoiceLines():
            return read_choice_lines(source, path, images)
        case Winoground():
            return read_winoground(source, path, images)
        case _:
            assert_never(source)


def _probe(config: Config, source: ProbeSource) -> ProbeSet:
    match source:
        case ProbeFolders():
            return read_probe_folders(source, _path(config, source.train), _path(config, source.test))
        case ProbeTars():
            train, test = (_tars(config, paths, source.name) for paths in (source.train, source.test))
            return read_probe_tars(source, train, test)
        case _:
            assert_never(source)


def _zero_shot(config: Config, source: ZeroShotSource) -> ZeroShotSet:
    classes = read_names(_path(config, source.classes), source.key)
    templates = read_templates(_path(config, source.templates), source.key)
    match source:
        case ClassFolders():
            folders = None if source.folders is None else read_names(_path(config, source.folders), source.key)
            return read_class_folders(source, _path(config, source.images), classes, templates, folders)
        case ClassTable():
            return read_class_table(
                source, _path(config, source.path), _path(config, source.images), classes, templates
            )
        case ClassTars():
            return read_class_tars(source, _tars(config, source.paths, source.name), classes, templates)
        case _:
            assert_never(source)


def _read_dataset(config: Config, dataset: str) -> tuple[RetrievalSet, ZeroShotSet] | None:
    folder = config.resolve_optional(dataset)
    return None if folder is None else _read_folder(Path(folder))


def _read_folder(folder: Path) -> tuple[RetrievalSet, ZeroShotSet]:
    """Read the folder `evaluate.dataset`, which has the files of both tasks. Image names are relative to it.

    captions.csv    header image,caption; one row per caption
    labels.csv      header image,label; a label is a line of classes.txt
    classes.txt     class names, one per line
    templates.txt   prompt templates with {} for the class name, one per line
    """
    if not folder.is_dir():
        raise PermanentError(
            f"evaluation set {folder} does not exist{similar_file(folder)}; create it, or correct evaluate.dataset"
        )
    for name in _FILES:
        if not (folder / name).is_file():
            raise PermanentError(f"evaluation set {folder} has no {name}; recreate it, or correct evaluate.dataset")
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


def _tars(config: Config, paths: Sequence[str], name: str) -> list[Path]:
    patterns = [str(_path(config, path)) for path in paths]
    files = find_files(config, patterns, kind="tar", setting=f"the paths of {name} in evaluate")
    return [Path(file.location) for file in files.values()]


def _path(config: Config, text: str) -> Path:
    resolved = config.resolve(text)
    if "://" in resolved:
        raise PermanentError(f"evaluation set {text} is not a local path; copy it to this machine")
    return Path(resolved)


def sets_digests(sets: EvaluationSets, *, cached: bool) -> dict[str, str]:
    """Return the digest of each set by its task (a field of `EvaluationSets`), followed by `:name` for named sets.

    *cached* allows digests from the cache, which is keyed by file names, sizes and times. Raises VecapError for an
    unreadable image.
    """
    digests: dict[str, str] = {}
    tasks: dict[str, Sequence[_Set]] = {field.name: getattr(sets, field.name) for field in fields(sets)}
    for task, datasets in tasks.items():
        for dataset in datasets:
            digests[f"{task}:{dataset.name}" if dataset.name else task] = _set_digest(dataset, cached=cached)
    return digests


def _set_digest(dataset: _Set, *, cached: bool) -> str:
    body = {name: value for name, value in asdict(dataset).items() if name not in ("name", "images")}
    boxes = [image.box for image in dataset.images]
    if any(boxes):
        body["boxes"] = boxes
    return digest(body | {"pictures": _images_digest(dataset.images, cached=cached)})


def _images_digest(images: Sequence[ImageFile], *, cached: bool) -> str:
    cache = _cache_folder() / digest(_file_states(images))
    if cached and cache.is_file():
        text = cache.read_text(encoding="ascii")
        if len(text) == 64:
            return text
    with ThreadPoolExecutor() as pool:
        result = digest(list(pool.map(lambda image: hashlib.sha256(image.read()).hexdigest(), images)))
    _write_cache(cache, result)
    return result


def _write_cache(cache: Path, text: str) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False, encoding="ascii") as temporary:
            temporary.write(text)
        Path(temporary.name).replace(cache)
    except OSError as error:
        log.info("could not cache the digest of an evaluation set: %s", error)


def _file_states(images: Sequence[ImageFile]) -> list[list[str | int | None]]:
    try:
        states = {file: file.stat() for file in {image.file for image in images}}
    except OSError as error:
        raise VecapError(f"cannot read {error.filename} of the evaluation set: {error.strerror}") from error
    return [
        [str(image.file), image.offset, image.size, states[image.file].st_size, states[image.file].st_mtime_ns]
        for image in images
    ]


def _cache_folder() -> Path:
    """Return the folder of cached digests in the user's cache (XDG Base Directory)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vecap" / "digests"

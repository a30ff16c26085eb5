"""The mixture that a model was trained on: its recipe, its versions and other people's tars, each compared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vecap_tasks.config import Config
from vecap_tasks.dataset.manifest import Input, Manifest, read_manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version
from vecap_tasks.errors import DamagedError, VecapError, one_line
from vecap_tasks.lineage.inputs import Inputs
from vecap_tasks.lineage.tree import Node
from vecap_tasks.train.mixture import Mixture, TarPart, TarsPart, VersionPart, mixture_file, read_mixture
from vecap_tasks.train.tars import FoundTar, find_tars

if TYPE_CHECKING:
    from vecap_tasks.lineage.walker import Walker


def mixture_nodes(walker: Walker, version: Version, train: Manifest) -> list[Node]:
    """Return the node of the mixture that the manifest *train* names, with all its sources; none where it has none."""
    inputs = Inputs(walker.config, version, train)
    return [_mixture(walker, version, inputs, item) for item in train.inputs if item.kind == "mixture"]


def _mixture(walker: Walker, version: Version, inputs: Inputs, item: Input) -> Node:
    file = mixture_file(version.dataset, item.name)
    try:
        mixture = read_mixture(walker.store, version.dataset, item.name)
        config = inputs.config
    except VecapError as error:
        return Node("mixture", file, item.digest, problems=(one_line(error),))
    problems = []
    if mixture.digest != item.digest:
        problems.append(f"has the digest {mixture.digest[:12]}, {item.digest[:12]} was used")
    children = tuple(_children(walker, config, mixture))
    size = len(mixture.to_json())
    return Node("mixture", file, item.digest, "", tuple(problems), files=1, bytes=size, children=children)


def _children(walker: Walker, config: Config, mixture: Mixture) -> list[Node]:
    return [
        _version(walker, config, part) if isinstance(part, VersionPart) else _tars(config, part)
        for part in mixture.sources
    ]


def _version(walker: Walker, config: Config, part: VersionPart) -> Node:
    """Return the node of a version, in this store or in another one."""
    try:
        store = Store(config.resolve(part.root))
        if store.root != walker.store.root:
            walker = replace(walker, store=store, seen=set())
        node = walker.version(part.version, part.dataset)
    except (VecapError, OSError) as error:
        return Node("version", part.name, part.digest, unchecked=one_line(error))
    try:
        manifest = read_manifest(store, f"{part.dataset}/{part.version}/assemble")
    except DamagedError:
        return node  # which tells of it
    if manifest is not None and manifest.digest != part.digest:
        problem = f"has the digest {manifest.digest[:12]} now, the mixture was made of {part.digest[:12]}"
        return replace(node, problems=(*node.problems, problem))
    return node


def _tars(config: Config, part: TarsPart) -> Node:
    """Return the node of other people's tars, each compared with what the mixture recorded of it."""
    try:
        found = {tar.path: tar for tar in find_tars(config, part.paths)}
    except VecapError as error:
        return Node("tars", part.name, part.digest, unchecked=one_line(error))
    return Node("tars", part.name, part.digest, children=tuple(_tar(tar, found.get(tar.path)) for tar in part.tars))


def _tar(recorded: TarPart, found: FoundTar | None) -> Node:
    if found is None:
        return Node("source", recorded.path, None, unchecked="it is not there any more")
    try:
        check = found.check
    except OSError as error:
        return Node("source", recorded.path, None, unchecked=f"it cannot be read: {' '.join(str(error).split())}")
    if check != recorded.check:
        return Node("source", recorded.path, None, problems=("was changed since the mixture was recorded",))
    return Node("source", recorded.path, None, f"the same as used, {check[:19]}", files=1, bytes=found.bytes)

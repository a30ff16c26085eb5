"""The lineage tree: what was made from what, compared with what lies there now."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vecap_tasks.config import Config
from vecap_tasks.config.recorded import with_current_names
from vecap_tasks.core.manifest import Input, Manifest
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import open_filesystem
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError, VecapError, format_error

_WIDTH = 2000  # the terminal wraps what is too long for it; nothing is cut
_WEB = re.compile(r"https?://")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """One thing in a lineage. `digest` is the sha256 it was recorded with, None where there is none.

    `problems` are damages: what is here differs from what was recorded. `unchecked` says why it could not be compared,
    such as a source that is gone; that is no damage. `files` and `bytes` were read for it, and compared.
    """

    kind: str
    name: str
    digest: str | None
    note: str = ""
    problems: tuple[str, ...] = ()
    unchecked: str = ""
    files: int = 0
    bytes: int = 0
    children: tuple[Node, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether nothing is wrong here or below."""
        return not any(node.problems for node in self.walk())

    @property
    def complete(self) -> bool:
        """Whether everything here and below could be checked."""
        return not any(node.unchecked for node in self.walk())

    def walk(self) -> Iterator[Node]:
        """Give this node and all below it, from the top."""
        yield self
        for child in self.children:
            yield from child.walk()

    def as_json(self) -> dict[str, Any]:
        """Return the tree as JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "digest": self.digest,
            "note": self.note,
            "problems": list(self.problems),
            "unchecked": self.unchecked,
            "files": self.files,
            "bytes": self.bytes,
            "sound": self.verified,
            "complete": self.complete,
            "children": [child.as_json() for child in self.children],
        }


def format_tree(node: Node) -> str:
    """Return the tree as lines for a terminal, and below it one line that says what came of it."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def label(one: Node) -> Text:
        digest = f"  {one.digest[:12]}" if one.digest else ""
        text = Text(f"{one.kind} {one.name}{digest}")
        if one.note:
            text.append(f"  {one.note}", style="dim")
        for problem in one.problems:
            text.append(f"\n✗ {problem}", style="red")
        if one.unchecked:
            text.append(f"\n? not checked: {one.unchecked}", style="yellow")
        return text

    def grow(branch: Tree, one: Node) -> None:
        for child in one.children:
            grow(branch.add(label(child)), child)

    tree = Tree(label(node))
    grow(tree, node)
    console = Console(width=_WIDTH)
    with console.capture() as captured:
        console.print(tree)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, _outcome(node)])


def _outcome(node: Node) -> str:
    nodes = list(node.walk())
    problems = sum(len(one.problems) for one in nodes)
    unchecked = sum(bool(one.unchecked) for one in nodes)
    state = "sound" if node.verified else "damaged, 1 problem" if problems == 1 else f"damaged, {problems} problems"
    read = f"{sum(one.files for one in nodes):,} files, {sum(one.bytes for one in nodes):,} bytes checked"
    left = f"; {unchecked} {'thing' if unchecked == 1 else 'things'} not checked" if unchecked else ""
    return f"{node.kind} {node.name} is {state}: {read}{left}"


def named_inputs(stage: str, inputs: Sequence[Input]) -> list[Input]:
    """Return *inputs*, those of a manifest of *stage*, with the kinds that a lineage shows.

    A training records its tokenizer as its first `model`. Its digest covers the tokenizer's files alone, so it differs
    from that of the model in the same folder. The recorded kind is part of the manifest's digest and stays.
    """
    tokenizer = next((item for item in inputs if item.kind == "model"), None) if stage == "train" else None
    return [replace(item, kind="tokenizer") if item is tokenizer else item for item in inputs]


class MissingSource(VecapError):
    """There is nothing to compare with any more. The message says why."""


class Inputs:
    """The inputs of one stage, *manifest* being its manifest; relative paths start from where *config* lies."""

    def __init__(self, config: Config, version: Version, manifest: Manifest) -> None:
        self._given = config
        self._version = version
        self._manifest = manifest

    def node(self, item: Input) -> Node:
        """Return the node of *item*: the same as used, another one (a problem), or not to be checked any more."""
        try:
            found, size = self._source(item) if item.kind == "source" else self._found(item)
        except MissingSource as error:
            return Node(item.kind, item.name, item.digest, unchecked=format_error(error))
        except VecapError as error:
            return Node(item.kind, item.name, item.digest, problems=(format_error(error),))
        if found != item.digest:
            problem = f"has the digest {found[:12]} now, {item.digest[:12]} was used"
            return Node(item.kind, item.name, item.digest, problems=(problem,))
        return Node(item.kind, item.name, item.digest, "the same as used", files=1, bytes=size)

    @cached_property
    def config(self) -> Config:
        """The configuration that the stage ran under."""
        try:
            recorded = with_current_names(self._manifest.provenance["config"])
            return Config.model_validate(recorded).with_base(self._given.base)
        except (KeyError, ValidationError) as error:
            raise MissingSource("this release cannot read the configuration that it was made under") from error

    def _source(self, item: Input) -> tuple[str, int]:
        """Return sha256 and bytes of a crawled file, read from where it lies, on this machine or on S3."""
        if _WEB.match(item.name):
            raise MissingSource("it was fetched from the web, which may have changed since")
        try:
            place = self._given.resolve(item.name)
        except ConfigError as error:
            raise MissingSource(str(error)) from error
        filesystem, path = open_filesystem(place)
        sha256 = hashlib.sha256()
        size = 0
        try:
            with filesystem.open_input_file(path) as stream:  # a stream would unpack a .gz
                while block := stream.read(_BLOCK):
                    sha256.update(block)
                    size += len(block)
        except FileNotFoundError as error:
            raise MissingSource(f"there is no {place} any more") from error
        except OSError as error:
            raise MissingSource(f"{place} cannot be read: {' '.join(str(error).split())}") from error
        return sha256.hexdigest(), size

    def _found(self, item: Input) -> tuple[str, int]:
        """Return the digest that *item* has now. Raises Gone where it is not there, VecapError where it is broken."""
        try:
            now = self._captioning(item) if self._manifest.stage == "rewrite" else None
            now = now or self._now.get((item.kind, item.name))
        except MissingSource:
            raise
        except OSError as error:
            raise MissingSource(f"it cannot be read: {' '.join(str(error).split())}") from error
        except VecapError as error:
            if self._there(item, error):
                raise
            raise MissingSource(str(error)) from error
        if now is None:
            raise MissingSource("it is not here any more")
        return now.digest, now.bytes or 0

    @cached_property
    def _now(self) -> dict[tuple[str, str], Input]:
        # A mixture is compared by itself (`mixtures.py`); to ask the stage for it would record it anew.
        train = self.config.train.model_copy(update={"mixture": None})
        config = self.config.model_copy(update={"train": train}).with_base(self._given.base)
        stage = load_stage(self._manifest.stage, config, self._version)
        return {(item.kind, item.name): item for item in named_inputs(stage.name, stage.inputs())}

    def _captioning(self, item: Input) -> Input | None:
        """Return a model or prompt of `rewrite` as it is now: each alone, so that one that is gone hides no other."""
        from vecap_tasks.core.models import find_checkpoint
        from vecap_tasks.rewrite.prompt import load_prompt

        section = self.config.rewrite
        if item.kind == "model":
            settings = next((one for one in (section.vlm, section.llm) if one.model == item.name), None)
            if settings is not None and settings.server is not None:
                raise MissingSource("a server had it: its digest covers the name and the revision that were asked for")
            found = find_checkpoint(self.config, item.name)
            return Input("model", item.name, found.digest, found.bytes)
        if item.kind == "prompt":
            folder = self.config.resolve_optional(section.prompts)
            return Input("prompt", item.name, load_prompt(item.name, Path(folder) if folder else None).digest)
        return None

    def _there(self, item: Input, error: VecapError) -> bool:
        """Say whether what could not be read is there all the same, and so is damaged."""
        if item.kind == "prompt":
            return isinstance(error.__cause__, UnicodeDecodeError)
        try:
            return Path(self._given.resolve(item.name)).exists()
        except ConfigError:
            return False

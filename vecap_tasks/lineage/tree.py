"""The lineage tree: recorded outputs and inputs, compared with their current state."""

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
from vecap_tasks.core.store import Store, open_filesystem
from vecap_tasks.core.verify import find_differing, referenced_tars
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError, VecapError, format_error

_WIDTH = 2000  # wide enough to print every line uncut
_WEB_URL = re.compile(r"https?://")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a lineage tree. `digest` is the recorded sha256, None if it has none.

    `problems` lists differences from the recorded state (corruption). `unchecked` is the reason why the node could not
    be compared, e.g. a deleted source; this is not corruption. `files` and `bytes` count what was read and compared.
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
        """Whether this node and its descendants have no problems."""
        return not any(node.problems for node in self.walk())

    @property
    def complete(self) -> bool:
        """Whether this node and its descendants could all be checked."""
        return not any(node.unchecked for node in self.walk())

    def walk(self) -> Iterator[Node]:
        """Yield this node and its descendants, depth first."""
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
            "verified": self.verified,
            "complete": self.complete,
            "children": [child.as_json() for child in self.children],
        }


def format_tree(node: Node) -> str:
    """Return the tree as lines for a terminal, followed by a summary line."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def label(item: Node) -> Text:
        digest = f"  {item.digest[:12]}" if item.digest else ""
        text = Text(f"{item.kind} {item.name}{digest}")
        if item.note:
            text.append(f"  {item.note}", style="dim")
        for problem in item.problems:
            text.append(f"\n✗ {problem}", style="red")
        if item.unchecked:
            text.append(f"\n? not checked: {item.unchecked}", style="yellow")
        return text

    def add_children(branch: Tree, item: Node) -> None:
        for child in item.children:
            add_children(branch.add(label(child)), child)

    tree = Tree(label(node))
    add_children(tree, node)
    console = Console(width=_WIDTH)
    with console.capture() as captured:
        console.print(tree)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, _summary(node)])


def _summary(node: Node) -> str:
    nodes = list(node.walk())
    problems = sum(len(item.problems) for item in nodes)
    unchecked = sum(bool(item.unchecked) for item in nodes)
    state = "verified" if node.verified else "corrupt, 1 problem" if problems == 1 else f"corrupt, {problems} problems"
    checked = f"{sum(item.files for item in nodes):,} files, {sum(item.bytes for item in nodes):,} bytes checked"
    skipped = f"; {unchecked} {'item' if unchecked == 1 else 'items'} not checked" if unchecked else ""
    return f"{node.kind} {node.name}: {state}, {checked}{skipped}"


def named_inputs(stage: str, inputs: Sequence[Input]) -> list[Input]:
    """Return *inputs* of a manifest of *stage* with the kinds shown in a lineage.

    Training manifests record the tokenizer as the first `model`; this returns it as `tokenizer`. The recorded kind is
    part of the manifest's digest, so it cannot change.
    """
    tokenizer = next((item for item in inputs if item.kind == "model"), None) if stage == "train" else None
    return [replace(item, kind="tokenizer") if item is tokenizer else item for item in inputs]


def images_node(store: Store, item: Input, manifest: Manifest) -> Node:
    """Return the node of the tars of an earlier version that *manifest* refers to by its input *item*; reads them."""
    try:
        tars = referenced_tars(store, manifest)
        problems = tuple(f"{file.name} {problem}" for file, problem in find_differing(tars))
    except (VecapError, OSError) as error:
        return Node(item.kind, item.name, item.digest, problems=(format_error(error),))
    size = sum(tar.bytes for tar in tars)
    note = f"{len(tars):,} tars, {size:,} bytes"
    return Node(item.kind, item.name, item.digest, note, problems, files=len(tars), bytes=size)


class MissingSource(VecapError):
    """The input is not available for comparison; the message is the reason."""


class InputChecker:
    """Compares the inputs in the *manifest* of a stage; relative paths start at the folder of *config*."""

    def __init__(self, config: Config, version: Version, manifest: Manifest) -> None:
        self._current_config = config
        self._version = version
        self._manifest = manifest

    def node(self, item: Input) -> Node:
        """Return the node of *item*: unchanged, changed (a problem), or not available (unchecked)."""
        try:
            digest, size = self._source_digest(item) if item.kind == "source" else self._input_digest(item)
        except MissingSource as error:
            return Node(item.kind, item.name, item.digest, unchecked=format_error(error))
        except VecapError as error:
            return Node(item.kind, item.name, item.digest, problems=(format_error(error),))
        if digest != item.digest:
            problem = f"digest is {digest[:12]}, recorded {item.digest[:12]}"
            return Node(item.kind, item.name, item.digest, problems=(problem,))
        return Node(item.kind, item.name, item.digest, "unchanged", files=1, bytes=size)

    @cached_property
    def config(self) -> Config:
        """The recorded configuration of the stage."""
        try:
            recorded = with_current_names(self._manifest.provenance["config"])
            return Config.model_validate(recorded).with_base(self._current_config.base)
        except (KeyError, ValidationError) as error:
            raise MissingSource("this release cannot read the recorded configuration") from error

    def _source_digest(self, item: Input) -> tuple[str, int]:
        """Return sha256 and size in bytes of a crawled file, local or on S3."""
        if _WEB_URL.match(item.name):
            raise MissingSource("fetched from the web, which may have changed")
        try:
            uri = self._current_config.resolve(item.name)
        except ConfigError as error:
            raise MissingSource(str(error)) from error
        if Path(uri).is_dir():
            raise MissingSource("a folder; compare its files with the column sha256 of the crawl's tables")
        filesystem, path = open_filesystem(uri)
        sha256 = hashlib.sha256()
        size = 0
        try:
            with filesystem.open_input_file(path) as stream:  # open_input_stream would decompress .gz
                while block := stream.read(_BLOCK_BYTES):
                    sha256.update(block)
                    size += len(block)
        except FileNotFoundError as error:
            raise MissingSource(f"{uri} does not exist") from error
        except OSError as error:
            raise MissingSource(f"cannot read {uri}: {' '.join(str(error).split())}") from error
        return sha256.hexdigest(), size

    def _input_digest(self, item: Input) -> tuple[str, int]:
        """Return the current digest and size of *item*.

        Raises MissingSource if it is not available, and VecapError if it is corrupt.
        """
        try:
            current = self._rewrite_input(item) if self._manifest.stage == "rewrite" else None
            current = current or self._current_inputs.get((item.kind, item.name))
        except MissingSource:
            raise
        except OSError as error:
            raise MissingSource(f"cannot read it: {' '.join(str(error).split())}") from error
        except VecapError as error:
            if self._exists(item, error):
                raise
            raise MissingSource(str(error)) from error
        if current is None:
            raise MissingSource("no longer an input of the stage")
        return current.digest, current.bytes or 0

    @cached_property
    def _current_inputs(self) -> dict[tuple[str, str], Input]:
        # Mixtures are compared separately (`walk.py`); loading one here would record it again.
        train = self.config.train and self.config.train.model_copy(update={"mixture": None})
        config = self.config.model_copy(update={"train": train}).with_base(self._current_config.base)
        stage = load_stage(self._manifest.stage, config, self._version)
        return {(item.kind, item.name): item for item in named_inputs(stage.name, stage.inputs())}

    def _rewrite_input(self, item: Input) -> Input | None:
        """Return the current model or prompt of `rewrite`; each is loaded separately, because some may be missing."""
        from vecap_tasks.core.models import find_checkpoint
        from vecap_tasks.rewrite.prompt import load_prompt

        section = self.config.captioning
        if item.kind == "model":
            settings = next((model for model in (section.vlm, section.llm) if model.model == item.name), None)
            if settings is not None and settings.server is not None:
                raise MissingSource("served remotely; its digest covers only the model name and revision")
            found = find_checkpoint(self.config, item.name)
            return Input("model", item.name, found.digest, found.bytes)
        if item.kind == "prompt":
            folder = self.config.resolve_optional(section.prompts)
            return Input("prompt", item.name, load_prompt(item.name, Path(folder) if folder else None).digest)
        return None

    def _exists(self, item: Input, error: VecapError) -> bool:
        """Return whether the input that could not be read exists, i.e. is corrupt."""
        if item.kind == "prompt":
            return isinstance(error.__cause__, UnicodeDecodeError)
        try:
            return Path(self._current_config.resolve(item.name)).exists()
        except ConfigError:
            return False

"""Markdown notes on MLflow runs and models, with links to what they come from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from vecap_tasks.config import Config, expand_optional
from vecap_tasks.core.manifest import Input, Manifest
from vecap_tasks.core.mlflow_tracking import is_server, tracking_uri

_MODE = "workflowType=machine_learning"
NAME = "crawl_files.md"
TABLE = "crawl_files.csv"
_MAX_TABLE_ROWS = 1000  # rows of a table that a browser still shows at once; the other file has all
_MAX_NAMED = 5  # files of a crawl, and sources of a mixture, that a page names itself: MLflow takes 8,000 characters
_MAX_CHARS = 300  # of a name or a refusal
_FUNNEL = (
    ("crawl", "candidates", "found"),
    ("crawl", "success", "downloaded"),
    ("quality", "accepted", "accepted"),
    ("rewrite", "captioned", "captioned"),
    ("assemble", "samples", "samples"),
)


def run_page(experiment: str, run_id: str, artifact: str = "") -> str:
    """Return the link to a run, or to one of its artifacts, a path such as `quality/report/index.html`."""
    below = f"/artifacts/{quote(artifact)}" if artifact else ""
    return f"#/experiments/{experiment}/runs/{run_id}{below}?{_MODE}"


def model_page(experiment: str, model_id: str) -> str:
    """Return the link to a logged model, `m-…`."""
    return f"#/experiments/{experiment}/models/{model_id}?{_MODE}"


def trained_page(experiment: str, dataset: str) -> str:
    """Return the link to those runs of *experiment* that name *dataset* among their inputs."""
    condition = quote(f"dataset.name = '{dataset}'", safe="")
    return f"#/experiments/{experiment}/runs?searchFilter={condition}&{_MODE}"


def address(config: Config, page: str) -> str | None:
    """Return the URL of *page* for a browser: below `mlflow.ui_url`, or below the server's own URL where that is empty.

    None where MLflow is a file. Raises ConfigError for a variable that is not set.
    """
    base = expand_optional(config.mlflow.ui_url) or tracking_uri(config)
    if not is_server(base):
        return None
    parts = urlsplit(base)
    public = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))  # a link must not hold a password
    return f"{public.rstrip('/')}/{page}"


def write_crawl_files(folder: Path, crawl: Manifest, links: Sequence[str]) -> None:
    """Write the list for people (`NAME`) and for machines (`TABLE`) into *folder*.

    *links* are Markdown links, shown at its end.
    """
    rows = [("read", item.kind, item.name, item.bytes, item.digest) for item in crawl.inputs]
    rows += [("written", "file", f"{crawl.location}/{entry.path}", entry.bytes, entry.sha256) for entry in crawl.files]
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("step", "kind", "name", "bytes", "sha256"), *rows])
    read = [(_shown(item), _bytes(item.bytes), f"`{item.digest}`") for item in crawl.inputs]
    written = [(_cell(entry.path), _bytes(entry.bytes), f"`{entry.sha256}`") for entry in crawl.files]
    text = f"""# Crawl files of {crawl.dataset}, {crawl.interval}

## What the crawl read

Names are as the configuration has them: no path of the machine that read them. The sha256 is of the bytes that were
read; that of an earlier version is of its crawl's manifest.

{_table(read)}
## What the crawl wrote

In `{crawl.location}` of the store: images and AltText, and a row for everything that was found, with what became of it.

{_table(written)}
{"".join(f"- {link}{chr(10)}" for link in links)}"""
    (folder / NAME).write_text(text, encoding="utf-8")


def _shown(item: Input) -> str:
    return _cell(item.name) if item.kind == "source" else f"{item.kind} {_code(item.name)}"


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows[:_MAX_TABLE_ROWS])
    more = f"\n… and {len(rows) - _MAX_TABLE_ROWS:,} more, in `{TABLE}`\n" if len(rows) > _MAX_TABLE_ROWS else ""
    return f"| file | bytes | sha256 |\n| --- | ---: | --- |\n{lines}{more}" if rows else "Nothing.\n"


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size:,}"


def _cell(name: str) -> str:
    return "`" + name.replace("`", "'").replace("|", "¦").replace("\n", " ") + "`"


@dataclass(frozen=True, slots=True)
class Place:
    """A run in MLflow, and how its artifacts are linked to."""

    experiment: str
    run_id: str

    def link(self, text: str, artifact: str = "") -> str:
        """Return a Markdown link to the run, or to the page of one of its artifacts."""
        return f"[{text}]({run_page(self.experiment, self.run_id, artifact)})"


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """A version (or another dataset) that a model was trained on; `place` is its run, None where MLflow has none.

    `name` is dataset/version, `digest` the sha256 that the training names.
    """

    name: str
    digest: str
    place: Place | None

    @property
    def link(self) -> str:
        """Its name, leading to its run and to the list of its crawl files where MLflow has them."""
        if self.place is None:
            return _code(self.name)
        return f"{self.place.link(self.name[:_MAX_CHARS])} ({self.place.link('its crawl files', NAME)})"

    @property
    def line(self) -> str:
        return f"Trained on {_code(self.name)}, digest {_code(self.digest)}"


def version_note(
    name: str, manifests: Mapping[str, Manifest], place: Place, trained: str, tags: Mapping[str, str]
) -> str:
    """Return the page of the version *name* (dataset/version).

    *manifests* are those of its stages, *trained* is the link to the models trained on it, *tags* are the run's.
    """
    crawl, rewrite = manifests["crawl"], manifests["rewrite"]
    counts = [
        f"{manifests[stage].counters[counter]:,} {word}"
        for stage, counter, word in _FUNNEL
        if counter in manifests[stage].counters
    ]
    files = [item for item in crawl.inputs if item.kind == "source"]
    size = sum(item.bytes or 0 for item in files)
    count = "1 crawl file" if len(files) == 1 else f"{len(files):,} crawl files"
    listed = place.link(f"{count}, {size:,} bytes", NAME)
    lines = [
        "Look at " + ", ".join(_artifacts(place, manifests)),
        f"[Models trained on it]({trained})",
        f"Rows: {', '.join(counts)}",
        "Crawl files" + _indented([_input(item) for item in files[:_MAX_NAMED]], len(files) - _MAX_NAMED),
        "Captions written by"
        + _indented([_input(item) for item in rewrite.inputs if item.kind in ("model", "prompt")]),
        f"Digest {_code(manifests['assemble'].digest)}",
        *_made_by(tags),
    ]
    return f"**Dataset version {name}**, crawled from {listed}\n\n{_list(lines)}"


def gate_note(name: str, place: Place, refusal: str | None, tags: Mapping[str, str]) -> str:
    """Return the page of the gate's report on the crawl of the version *name*; *refusal* is None where it passed."""
    verdict = "The gate let it pass." if refusal is None else f"Refused: {_text(refusal)}"
    lines = [
        f"Look at {place.link('the report', 'report/index.html')} and at "
        f"{place.link('what Great Expectations found', 'report/data_docs/index.html')}",
        *_made_by(tags),
    ]
    return f"**Gate of {name}.** {verdict}\n\n{_list(lines)}"


def model_note(
    shard: str,
    model: str,
    trained_on: Sequence[TrainedOn],
    evaluation: Sequence[Input],
    arms: Place,
    tags: Mapping[str, str],
) -> str:
    """Return the page of the model *shard* (arm-seed) and of the run that trained and evaluated it.

    *model* is the link to the model, *evaluation* the sets that it was measured on, *arms* the run of all its arms.
    """
    arm, _, seed = shard.partition("-")
    lines = [
        *_lines(trained_on),
        *(f"Evaluated on {_input(item)}" for item in evaluation),
        f"[The model]({model}), one of {arms.link('all arms')}",
        *_made_by(tags),
    ]
    return f"**CLIP model of the arm `{arm}`, seed {seed}**, trained on {_links(trained_on)}\n\n{_list(lines)}"


def arms_note(
    trained_on: Sequence[TrainedOn], evaluation: Sequence[Input], place: Place, tags: Mapping[str, str]
) -> str:
    """Return the page of the run that holds the table of arms."""
    lines = [
        *_lines(trained_on),
        *(f"Evaluated on {_input(item)}" for item in evaluation),
        f"Look at {place.link('the table', 'results.md')} and {place.link('the chart', 'arms.png')}; "
        "the models are the runs below this one",
        *_made_by(tags),
    ]
    return f"**The arms compared**, trained on {_links(trained_on)}\n\n{_list(lines)}"


def _artifacts(place: Place, manifests: Mapping[str, Manifest]) -> list[str]:
    """Return links to the files for people that the stages left."""
    offered = (
        ("assemble", "samples.png", "samples"),
        ("assemble", "README.md", "the dataset card"),
        ("quality", "report/index.html", "the gate's report"),
        ("quality", "report/data_docs/index.html", "what Great Expectations found"),
    )
    there = {(stage, e.path) for stage, m in manifests.items() for e in (*m.files, *m.attachments)}
    found = [place.link(text, f"{stage}/{path}") for stage, path, text in offered if (stage, path) in there]
    return [*found, place.link("the whole configuration", "config.yaml")]


def _made_by(tags: Mapping[str, str]) -> list[str]:
    """Return the lines that say which code made it and which Airflow task recorded it."""
    lines = [f"Code {_code(tags['vecap.code'])}"] if "vecap.code" in tags else []
    if "airflow.dag_id" in tags:
        task = " ".join(
            tags[f"airflow.{part}"] for part in ("dag_id", "run_id", "task_id") if f"airflow.{part}" in tags
        )
        tried = f", try {tags['airflow.try_number']}" if "airflow.try_number" in tags else ""
        url = tags.get("airflow.url")
        lines.append(f"Recorded by Airflow: {f'[{_text(task)}]({url})' if url else _text(task)}{tried}")
    return lines


def _links(trained_on: Sequence[TrainedOn]) -> str:
    more = len(trained_on) - _MAX_NAMED
    return ", ".join(one.link for one in trained_on[:_MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _lines(trained_on: Sequence[TrainedOn]) -> list[str]:
    more = len(trained_on) - _MAX_NAMED
    left = [f"Trained on {more:,} more, which stand among the datasets of the run"] if more > 0 else []
    return [*(one.line for one in trained_on[:_MAX_NAMED]), *left]


def _input(item: Input) -> str:
    size = f", {item.bytes:,} bytes" if item.bytes is not None else ""
    return f"{item.kind} {_code(item.name)}{size}, sha256 {_code(item.digest)}"


def _list(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _indented(lines: Sequence[str], more: int = 0) -> str:
    said = [*lines, *([f"… and {more:,} more"] if more > 0 else [])]
    return "".join(f"\n    - {line}" for line in said)


def _code(text: str) -> str:
    return "`" + " ".join(text.split())[:_MAX_CHARS].replace("`", "'") + "`"


def _text(text: str) -> str:
    """Return *text* with nothing in it that Markdown or HTML would take for a sign."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_[]#|" else sign for sign in " ".join(text.split())[:_MAX_CHARS])
    return escaped.replace("&", "&amp;").replace("<", "&lt;")

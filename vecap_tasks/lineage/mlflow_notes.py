"""Markdown descriptions of MLflow runs and models, with links to their sources."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from vecap_tasks.config import Config, expand_optional
from vecap_tasks.core.manifest import Input, Manifest
from vecap_tasks.core.mlflow_tracking import is_server, tracking_uri

_WORKFLOW = "workflowType=machine_learning"  # without it, MLflow opens its view of traces
EXPERIMENTS_PAGE = f"#/experiments?{_WORKFLOW}"
PAGES_TAG = "vecap.pages"  # tag of a run: the URL of VeCap's pages in the Airflow that recorded it
PAGE_TAG = "vecap.page"  # tag of a run or model: the URL of its own page there
NAME = "crawl_files.md"
TABLE = "crawl_files.csv"
_MAX_TABLE_ROWS = 1000  # what a browser renders quickly; the CSV has all rows
_MAX_LISTED = 5  # files or sources listed in a description; MLflow allows 8,000 characters
_MAX_CHARS = 300  # of a name or a gate message
_FUNNEL = (
    ("crawl", "candidates", "candidates"),
    ("crawl", "success", "downloaded"),
    ("quality", "accepted", "accepted"),
    ("rewrite", "captioned", "captioned"),
    ("assemble", "samples", "samples"),
)


def run_page(experiment: str, run_id: str, artifact: str = "") -> str:
    """Return the link to a run, or to one of its artifacts, e.g. `quality/report/index.html`."""
    suffix = f"/artifacts/{quote(artifact)}" if artifact else ""
    return f"#/experiments/{experiment}/runs/{run_id}{suffix}?{_WORKFLOW}"


def model_page(experiment: str, model_id: str) -> str:
    """Return the link to a logged model, `m-…`."""
    return f"#/experiments/{experiment}/models/{model_id}?{_WORKFLOW}"


def registered_page(name: str, version: str) -> str:
    """Return the link to a version of the registered model *name*."""
    return f"#/models/{quote(name, safe='')}/versions/{version}?{_WORKFLOW}"


def runs_page(experiment: str) -> str:
    """Return the link to the runs of *experiment*."""
    return f"#/experiments/{experiment}/runs?{_WORKFLOW}"


def training_runs_page(experiment: str, dataset: str) -> str:
    """Return the link to the runs of *experiment* that have *dataset* as an input."""
    condition = quote(f"dataset.name = '{dataset}'", safe="")
    return f"#/experiments/{experiment}/runs?searchFilter={condition}&{_WORKFLOW}"


def page_url(config: Config, page: str) -> str | None:
    """Return the URL of *page* for a browser, based on `mlflow.ui_url` or, if empty, on the tracking server's URL.

    Returns None if MLflow is a file. Raises ConfigError if an environment variable is not set.
    """
    base = expand_optional(config.mlflow.ui_url) or tracking_uri(config)
    if not is_server(base):
        return None
    parts = urlsplit(base)
    public = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))  # without credentials
    return f"{public.rstrip('/')}/{page}"


def write_crawl_files(folder: Path, crawl: Manifest, links: Sequence[str]) -> None:
    """Write the list of crawl files into *folder* as Markdown (`NAME`) and CSV (`TABLE`).

    *links* are Markdown links, shown at the end.
    """
    rows = [("read", item.kind, item.name, item.bytes, item.digest) for item in crawl.inputs]
    rows += [("written", "file", f"{crawl.location}/{entry.path}", entry.bytes, entry.sha256) for entry in crawl.files]
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("step", "kind", "name", "bytes", "sha256"), *rows])
    read = [(_input_name(item), _bytes(item.bytes), f"`{item.digest}`") for item in crawl.inputs]
    written = [(_cell(entry.path), _bytes(entry.bytes), f"`{entry.sha256}`") for entry in crawl.files]
    text = f"""# Crawl files of {crawl.dataset}, {crawl.interval}

## Inputs

Names are as written in the configuration. The sha256 covers the bytes read; for an earlier version it covers the
manifest of its crawl.

{_table(read)}
## Outputs

Files in `{crawl.location}` of the store: images and AltText, and one row per candidate with its status.

{_table(written)}
{"".join(f"- {link}{chr(10)}" for link in links)}"""
    (folder / NAME).write_text(text, encoding="utf-8")


def _input_name(item: Input) -> str:
    return _cell(item.name) if item.kind == "source" else f"{item.kind} {_code(item.name)}"


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows[:_MAX_TABLE_ROWS])
    more = f"\n… and {len(rows) - _MAX_TABLE_ROWS:,} more, in `{TABLE}`\n" if len(rows) > _MAX_TABLE_ROWS else ""
    return f"| file | bytes | sha256 |\n| --- | ---: | --- |\n{lines}{more}" if rows else "None.\n"


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size:,}"


def _cell(name: str) -> str:
    return "`" + name.replace("`", "'").replace("|", "¦").replace("\n", " ") + "`"


@dataclass(frozen=True, slots=True)
class RunLink:
    """Links to a run in MLflow and its artifacts."""

    experiment: str
    run_id: str

    def link(self, text: str, artifact: str = "") -> str:
        """Return a Markdown link to the run, or to one of its artifacts."""
        return f"[{text}]({run_page(self.experiment, self.run_id, artifact)})"


@dataclass(frozen=True, slots=True)
class TrainingDataset:
    """A version or another dataset that a model was trained on.

    `name` is dataset/version, `digest` the recorded sha256, and `run` its MLflow run, None if there is none.
    """

    name: str
    digest: str
    run: RunLink | None

    @property
    def link(self) -> str:
        """The name, with links to the run and its crawl files if MLflow has them."""
        if self.run is None:
            return _code(self.name)
        return f"{self.run.link(self.name[:_MAX_CHARS])} ({self.run.link('crawl files', NAME)})"

    @property
    def line(self) -> str:
        return f"Trained on {_code(self.name)}, digest {_code(self.digest)}"


def version_note(
    name: str, manifests: Mapping[str, Manifest], run: RunLink, training_runs: str, tags: Mapping[str, str]
) -> str:
    """Return the description of the version *name* (dataset/version).

    *manifests* are those of its stages, *training_runs* links to the models trained on it, *tags* are the run's.
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
    crawl_files = run.link(f"{count}, {size:,} bytes", NAME)
    lines = [
        "Artifacts: " + ", ".join(_artifacts(run, manifests)),
        f"[Models trained on it]({training_runs})",
        f"Rows: {', '.join(counts)}",
        "Crawl files" + _indented([_input(item) for item in files[:_MAX_LISTED]], len(files) - _MAX_LISTED),
        "Captioning models and prompts"
        + _indented([_input(item) for item in rewrite.inputs if item.kind in ("model", "prompt")]),
        f"Digest {_code(manifests['assemble'].digest)}",
        *_pages(tags, ("version", ""), ("source files", "/sources"), ("quarantine", "/quarantine")),
        *_provenance(tags),
    ]
    return f"**Dataset version {name}**, crawled from {crawl_files}\n\n{_list(lines)}"


def gate_note(name: str, run: RunLink, failure: str | None, tags: Mapping[str, str]) -> str:
    """Return the description of the quality gate's report on *name*; *failure* is its message, None if it passed."""
    outcome = "passed" if failure is None else f"failed: {_text(failure)}"
    lines = [
        f"Artifacts: {run.link('quality report', 'report/index.html')}, "
        f"{run.link('Great Expectations results', 'report/data_docs/index.html')}",
        *_pages(tags, ("version", "")),
        *_provenance(tags),
    ]
    return f"**Quality gate of {name}** {outcome}\n\n{_list(lines)}"


def model_note(
    shard: str,
    model: str,
    trained_on: Sequence[TrainingDataset],
    evaluation: Sequence[Input],
    arms: RunLink,
    tags: Mapping[str, str],
) -> str:
    """Return the description of the model *shard* (arm-seed) and of its run.

    *model* is the link to the model, *evaluation* its evaluation sets, *arms* the run that compares all arms.
    """
    arm, _, seed = shard.partition("-")
    lines = [
        *_lines(trained_on),
        *(f"Evaluated on {_input(item)}" for item in evaluation),
        f"[Model]({model}), compared in {arms.link('all arms')}",
        *_pages(tags, ("lineage", "")),
        *_provenance(tags),
    ]
    return f"**CLIP model of the arm `{arm}`, seed {seed}**, trained on {_links(trained_on)}\n\n{_list(lines)}"


def arms_note(
    trained_on: Sequence[TrainingDataset], evaluation: Sequence[Input], run: RunLink, tags: Mapping[str, str]
) -> str:
    """Return the description of the run that compares all arms."""
    lines = [
        *_lines(trained_on),
        *(f"Evaluated on {_input(item)}" for item in evaluation),
        f"Artifacts: {run.link('results table', 'results.md')}, {run.link('chart', 'arms.png')}",
        "Models: the child runs",
        *_pages(tags, ("version", "")),
        *_provenance(tags),
    ]
    return f"**Comparison of arms**, trained on {_links(trained_on)}\n\n{_list(lines)}"


def page_tags(tags: Mapping[str, str], path: str) -> dict[str, str]:
    """Return the tag with the URL of VeCap's page *path*; empty if *tags* do not have the URL of the pages."""
    return {PAGE_TAG: f"{tags[PAGES_TAG]}/{path}"} if PAGES_TAG in tags else {}


def _pages(tags: Mapping[str, str], *links: tuple[str, str]) -> list[str]:
    """Return the line with *links* (text, path below the page of the run) to VeCap, if *tags* have the page."""
    url = tags.get(PAGE_TAG)
    return [f"VeCap: {', '.join(f'[{text}]({url}{path})' for text, path in links)}"] if url else []


def _artifacts(run: RunLink, manifests: Mapping[str, Manifest]) -> list[str]:
    """Return links to the readable artifacts of the stages."""
    offered = (
        ("assemble", "samples.png", "samples"),
        ("assemble", "README.md", "dataset card"),
        ("quality", "report/index.html", "quality report"),
        ("quality", "report/data_docs/index.html", "Great Expectations results"),
    )
    available = {(stage, e.path) for stage, m in manifests.items() for e in (*m.files, *m.attachments)}
    links = [run.link(text, f"{stage}/{path}") for stage, path, text in offered if (stage, path) in available]
    return [*links, run.link("configuration", "config.yaml")]


def _provenance(tags: Mapping[str, str]) -> list[str]:
    """Return the code version and the Airflow task that recorded the run."""
    lines = [f"Code {_code(tags['vecap.code'])}"] if "vecap.code" in tags else []
    if "airflow.dag_id" in tags:
        task = " ".join(
            tags[f"airflow.{part}"] for part in ("dag_id", "run_id", "task_id") if f"airflow.{part}" in tags
        )
        attempt = f", attempt {tags['airflow.try_number']}" if "airflow.try_number" in tags else ""
        url = tags.get("airflow.url")
        lines.append(f"Recorded by Airflow: {f'[{_text(task)}]({url})' if url else _text(task)}{attempt}")
    return lines


def _links(trained_on: Sequence[TrainingDataset]) -> str:
    more = len(trained_on) - _MAX_LISTED
    return ", ".join(item.link for item in trained_on[:_MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _lines(trained_on: Sequence[TrainingDataset]) -> list[str]:
    more = len(trained_on) - _MAX_LISTED
    rest = [f"Trained on {more:,} more; see the datasets of the run"] if more > 0 else []
    return [*(item.line for item in trained_on[:_MAX_LISTED]), *rest]


def _input(item: Input) -> str:
    size = f", {item.bytes:,} bytes" if item.bytes is not None else ""
    return f"{item.kind} {_code(item.name)}{size}, sha256 {_code(item.digest)}"


def _list(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _indented(lines: Sequence[str], more: int = 0) -> str:
    rest = [f"… and {more:,} more"] if more > 0 else []
    return "".join(f"\n    - {line}" for line in (*lines, *rest))


def _code(text: str) -> str:
    return "`" + " ".join(text.split())[:_MAX_CHARS].replace("`", "'") + "`"


def _text(text: str) -> str:
    """Return *text* with Markdown and HTML escaped."""
    escaped = "".join(f"\\{char}" if char in "\\`*_[]#|" else char for char in " ".join(text.split())[:_MAX_CHARS])
    return escaped.replace("&", "&amp;").replace("<", "&lt;")

"""The quality report: one self-contained HTML page, and `findings.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.core.stage_records import read_summary
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError
from vecap_tasks.quality.gate import DriftResult, Limit
from vecap_tasks.quality.measures import Measured
from vecap_tasks.quality.rules import describe_alttext_problem, describe_reason

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report/index.html"
FINDINGS = "report/findings.json"
_CRAWL_ERROR = "crawl error: download or decode failed; see `error_message`"


def report_folder(store: Store, version: Version) -> str | None:
    """Return the folder of the report on *version* in *store*, whether or not it passed; None without a report."""
    summary = read_summary(store, f"{version.folder}/quality")
    folder = summary.location if summary else f"{version.folder}/quality"
    return f"{folder}/report" if store.exists(f"{folder}/{PAGE}") else None


def report_page(store: Store, version: Version) -> str | None:
    """Return the path or `s3://` URL of the report page of *version*, whether or not it passed; None without one.

    Data Docs are next to it, at `data_docs/index.html`.
    """
    folder = report_folder(store, version)
    return f"{store.root}/{folder}/index.html" if folder else None


def read_findings(store: Store, version: Version) -> dict[str, Any] | None:
    """Return `findings.json`, None without a report. Raises CorruptError.

    Keys: `stops` and `warnings` (messages), `compared_with` (versions), and `moved` (drift: `name`, `distance`,
    `words`).
    """
    folder = report_folder(store, version)
    if folder is None:
        return None
    path = f"{folder}/findings.json"
    try:
        findings: dict[str, Any] = json.loads(store.read(path))
    except ValueError as error:
        raise CorruptError(f"{path} is corrupt: {error}; restore it") from error
    return findings


@dataclass(frozen=True, slots=True)
class Findings:
    """The contents of the report page: measures, limits, drift, and failed expectations by level.

    `skipped` counts images without a crawl row by reason, such as images of pages that opt out.
    """

    interval: str
    measured: Measured
    limits: tuple[Limit, ...]
    drift_limits: tuple[Limit, ...]
    compared_with: tuple[str, ...]
    moved: tuple[DriftResult, ...]
    skipped: Mapping[str, int]
    stops: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_html(self) -> str:
        """Return the page; equal findings produce equal bytes."""
        template = _templates().get_template("report.html")
        return template.render(findings=self, measures=asdict(self.measured.measures))


@lru_cache(maxsize=1)
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(limits_of=_limits_of, number=_number)
    environment.globals.update(describe_rejection=_describe_rejection, describe_problem=describe_alttext_problem)
    return environment


def _limits_of(limits: Iterable[Limit], measure: str) -> str:
    return "; ".join(
        f"{limit}{' (warning)' if limit.level == 'warn' else ''}" for limit in limits if limit.measure == measure
    )


def _describe_rejection(name: str) -> str:
    """Return the description of a name in `Measured.refused`: a rule or a crawl error."""
    return describe_reason(name) or _CRAWL_ERROR


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"

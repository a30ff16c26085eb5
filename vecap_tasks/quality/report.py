"""What was found in a crawl, for people: one page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.core.manifest import read_manifest
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
_CRAWL_ERROR = "crawl error: the download or decoding failed; see `error_message`"


def report_folder(store: Store, version: Version) -> str | None:
    """Return where in *store* the report on *version* lies, published or refused; None where there is none yet."""
    manifest = read_manifest(store, f"{version.folder}/quality")
    folder = manifest.location if manifest else f"{version.folder}/quality"
    return f"{folder}/report" if store.exists(f"{folder}/{PAGE}") else None


def report_page(store: Store, version: Version) -> str | None:
    """Return where the page of *version* lies (a path or an `s3://` address), published or refused; None without one.

    Data Docs are beside it, at `data_docs/index.html`.
    """
    folder = report_folder(store, version)
    return f"{store.root}/{folder}/index.html" if folder else None


def read_findings(store: Store, version: Version) -> dict[str, Any] | None:
    """Return what the gate found: `stops` and `warnings` (lines), `compared_with` (versions), and of what has `moved`
    from them `name`, `distance` and `words`. None where the crawl was not judged yet. Raises CorruptError."""
    folder = report_folder(store, version)
    if folder is None:
        return None
    place = f"{folder}/findings.json"
    try:
        findings: dict[str, Any] = json.loads(store.read(place))
    except ValueError as error:
        raise CorruptError(f"{place} is damaged: {error}; restore it") from error
    return findings


@dataclass(frozen=True, slots=True)
class Findings:
    """The figures of a crawl, what is asked of them, how far they have moved, and what failed, in the order it is told.

    `skipped` are images that the crawl names no row for, by why: those of pages that opt out among them.
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
        """Return the page: the same findings, the same bytes."""
        template = _templates().get_template("report.html")
        return template.render(findings=self, measures=asdict(self.measured.measures))


@lru_cache(maxsize=1)
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(asked=_asked, figure=_figure)
    made.globals.update(describe_refusal=_describe_refusal, describe_problem=describe_alttext_problem)
    return made


def _asked(limits: Iterable[Limit], measure: str) -> str:
    return "; ".join(f"{one}{' (warns)' if one.level == 'warn' else ''}" for one in limits if one.measure == measure)


def _describe_refusal(name: str) -> str:
    """Return the description of a name in `Measured.refused`: a rule's, or else one that the crawl gave."""
    return describe_reason(name) or _CRAWL_ERROR


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"

"""What was found in a crawl, for people: one page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version
from vecap_tasks.errors import DamagedError
from vecap_tasks.quality.gate import Limit, Moved
from vecap_tasks.quality.measures import Measured, Reason
from vecap_tasks.quality.rules import describe_alttext_problem, describe_reason

PAGE = "report/index.html"
FINDINGS = "report/findings.json"
_CRAWL_ERROR = "crawl error: the download or decoding failed; see `error_message`"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.passed { color: #176b2c; } .refused { color: #a11; } .warned { color: #8a5a00; }
code { background: #f4f4f4; padding: 0 .2rem; overflow-wrap: anywhere; }
"""


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
    from them `name`, `distance` and `words`. None where the crawl was not judged yet. Raises DamagedError."""
    folder = report_folder(store, version)
    if folder is None:
        return None
    place = f"{folder}/findings.json"
    try:
        findings: dict[str, Any] = json.loads(store.read(place))
    except ValueError as error:
        raise DamagedError(f"{place} is damaged: {error}; restore it") from error
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
    moved: tuple[Moved, ...]
    skipped: Mapping[str, int]
    stops: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_html(self) -> str:
        """Return the page: the same findings, the same bytes."""
        title = f"Crawl of {escape(self.interval)}"
        verdict = "".join(f'<p class="refused">Refused: {escape(failure)}</p>\n' for failure in self.stops)
        verdict = verdict or '<p class="passed">The gate let it pass.</p>\n'
        verdict += "".join(f'<p class="warned">Warning: {escape(failure)}</p>\n' for failure in self.warnings)
        figures = asdict(self.measured.measures)
        measures = _rows((name, value, _asked(self.limits, name)) for name, value in figures.items())
        return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
{verdict}<h2>Measures of all rows</h2>
<table><tr><th>measure</th><th>found</th><th>the gate</th></tr>{measures}</table>
<h2>Rows refused</h2>
<p>A row may have several reasons. <code>vecap quarantine</code> lists the rows.</p>
{_table(self.measured.refused, _describe_refusal, "addresses")}
<h2>AltText that is no caption</h2>
<p>The image stays: the vision-language model can still say what it shows.</p>
{_table(self.measured.problems, describe_alttext_problem, "AltText")}
<h2>Images that never became rows</h2>
{_skipped(self.skipped)}
<h2>Moved from the versions before</h2>
{self._drift()}
<p><a href="data_docs/index.html">What Great Expectations was asked and found</a> (its pages load their style and
scripts from the network)</p>
</body></html>
"""

    def _drift(self) -> str:
        if not self.moved:
            return "<p>No version of an earlier interval was published.</p>"
        lines = _rows(
            (
                one.name,
                float(one.distance),
                f"{escape(one.words)}<br><small>{_asked(self.drift_limits, one.name)}</small>",
            )
            for one in self.moved
        )
        compared = escape(", ".join(self.compared_with))
        return f"""<p>Compared with {compared}: the Jensen-Shannon distance of what is distributed, the relative change
of a share.</p>
<table><tr><th>what</th><th>distance</th><th>most of all</th></tr>{lines}</table>"""


def _asked(limits: Iterable[Limit], measure: str) -> str:
    said = [f"{one}{' (warns)' if one.level == 'warn' else ''}" for one in limits if one.measure == measure]
    return escape("; ".join(said))


def _skipped(skipped: Mapping[str, int]) -> str:
    if not skipped:
        return "<p>None.</p>"
    lines = _rows((escape(name.removeprefix("skipped.")), rows, "") for name, rows in skipped.items())
    return f"<table><tr><th>why</th><th>images</th><th></th></tr>{lines}</table>"


def _describe_refusal(name: str) -> str:
    """Return the description of a name in `Measured.refused`: a rule's, or else one that the crawl gave."""
    return describe_reason(name) or _CRAWL_ERROR


def _table(reasons: Iterable[Reason], describe: Callable[[str], str], shown: str) -> str:
    lines = _rows(
        (
            f"{escape(reason.name)}<br><small>{escape(describe(reason.name))}</small>",
            reason.rows,
            "<br>".join(f"<code>{escape(example) or '&nbsp;'}</code>" for example in reason.examples),
        )
        for reason in reasons
    )
    if not lines:
        return "<p>None.</p>"
    return f"<table><tr><th>reason</th><th>rows</th><th>such {shown} as</th></tr>{lines}</table>"


def _rows(lines: Iterable[tuple[str, float, str]]) -> str:
    return "".join(
        f'<tr><td>{name}</td><td class="number">{_figure(value)}</td><td>{more}</td></tr>\n'
        for name, value, more in lines
    )


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"

"""What was found in a crawl, for people and for machines: one page that needs no network, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from html import escape

from vecap_tasks.quality.measures import Limit, Measures, Reason
from vecap_tasks.quality.rules import ALTTEXT_RULES, DUPLICATE_RULES, ROW_RULES

_SAYS = {rule.name: rule.says for rule in (*ALTTEXT_RULES, *ROW_RULES, *DUPLICATE_RULES)}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.passed { color: #176b2c; } .refused { color: #a11; }
code { background: #f4f4f4; padding: 0 .2rem; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """The measures of a crawl, the gate's limits, the reasons counted, and what failed, in the order it is told."""

    interval: str
    measures: Measures
    limits: tuple[Limit, ...]
    refused: list[Reason]
    alttext_problems: list[Reason]
    failures: list[str]

    def to_json(self) -> str:
        return json.dumps({"passed": not self.failures} | asdict(self), indent=1, ensure_ascii=False) + "\n"

    def to_html(self) -> str:
        """Return the page: the same findings, the same bytes."""
        title = f"Crawl of {escape(self.interval)}"
        verdict = '<p class="passed">The gate let it pass.</p>'
        if self.failures:
            verdict = "".join(f'<p class="refused">Refused: {escape(failure)}</p>' for failure in self.failures)
        limits = {limit.measure: str(limit) for limit in self.limits}
        measures = _rows((name, value, escape(limits.get(name, ""))) for name, value in asdict(self.measures).items())
        return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
{verdict}
<h2>Measures of all rows</h2>
<table><tr><th>measure</th><th>found</th><th>the gate</th></tr>{measures}</table>
<h2>Rows refused</h2>
<p>A row may have several reasons.</p>
{_table(self.refused, "addresses")}
<h2>AltText that is no caption</h2>
<p>The image stays: the vision-language model can still say what it shows.</p>
{_table(self.alttext_problems, "AltText")}
<p><a href="data_docs/index.html">What Great Expectations was asked and found</a> (its pages load their style and
scripts from the network)</p>
</body></html>
"""


def _table(reasons: list[Reason], shown: str) -> str:
    if not reasons:
        return "<p>None.</p>"
    lines = _rows(
        (
            f"{escape(reason.name)}<br><small>{escape(_SAYS.get(reason.name, 'what the crawl says'))}</small>",
            reason.rows,
            "<br>".join(f"<code>{escape(example) or '&nbsp;'}</code>" for example in reason.examples),
        )
        for reason in reasons
    )
    return f"<table><tr><th>reason</th><th>rows</th><th>such {shown} as</th></tr>{lines}</table>"


def _rows(lines: Iterable[tuple[str, float, str]]) -> str:
    return "".join(
        f'<tr><td>{name}</td><td class="number">{_figure(value)}</td><td>{more}</td></tr>\n'
        for name, value, more in lines
    )


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"

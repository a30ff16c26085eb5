"""Rendering of page templates, and security headers that prevent scripts in crawled text from running.

The only script is `frame.js`, which has no data in it; the headers allow it by its hash.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

SCRIPT = (Path(__file__).parent / "frame.js").read_text(encoding="utf-8")
_SCRIPT_HASH = b64encode(sha256(SCRIPT.encode()).digest()).decode()
# Defense in depth against unescaped crawled text: no other scripts, no frames, no requests to other servers.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; "
    f"script-src 'sha256-{_SCRIPT_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}
# The quality report has inline styles. Great Expectations' pages load styles and scripts from other servers, which this
# policy blocks; they render as plain tables.
REPORT_HEADERS = HEADERS | {
    "Content-Security-Policy": "sandbox allow-popups; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"
}


@lru_cache(maxsize=1)
def templates() -> Environment:
    folder = Path(__file__).parent / "templates"
    loader = FileSystemLoader(folder)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["grouped"] = lambda number: f"{number:,}"
    environment.filters["share"] = lambda part, whole: f"{part / whole:.1%}" if whole else "–"
    environment.filters |= {"size": _size, "duration": _duration, "time": _time, "rate": _rate, "money": _money}
    environment.globals |= {"query": query, "script": Markup(SCRIPT)}  # noqa: S704 - a file of this package
    return environment


def _size(count: int) -> str:
    """Return *count* bytes with a decimal unit."""
    value, units = float(count), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 999.5 and (larger := next(units, None)) is not None:
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"


def _duration(seconds: float) -> str:
    """Return *seconds* in at most two units."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _time(value: str | float) -> str:
    """Return a time (ISO format in UTC, or seconds since the epoch) to the minute, in UTC."""
    text = value if isinstance(value, str) else datetime.fromtimestamp(value, UTC).isoformat()
    return text[:16].replace("T", " ")


def _rate(value: float | None) -> str:
    """Return a rate with two significant digits, or all digits before the point."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def _money(value: float | None) -> str:
    """Return a cost with at least two decimals, and more for small ones."""
    if value is None:
        return "–"
    return f"{value:,.2f}" if value >= 0.995 or value == 0 else f"{value:.4f}"


def query(**values: Any) -> str:
    """Return the query string of the non-empty *values*."""
    params = {name: value for name, value in values.items() if value not in ("", None, 0)}
    return f"?{urlencode(params)}" if params else ""


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return *template* rendered with *values*, which are escaped."""
    return HTMLResponse(templates().get_template(template).render(**values), status, HEADERS)

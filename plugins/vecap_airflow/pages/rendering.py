"""Rendering of page templates, and security headers that prevent scripts in crawled text from running."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

# Defense in depth against unescaped crawled text: no scripts, no frames, no requests to other servers.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'",
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
    environment.globals["query"] = query
    return environment


def query(**values: Any) -> str:
    """Return the query string of the non-empty *values*."""
    params = {name: value for name, value in values.items() if value not in ("", None, 0)}
    return f"?{urlencode(params)}" if params else ""


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return *template* rendered with *values*, which are escaped."""
    return HTMLResponse(templates().get_template(template).render(**values), status, HEADERS)

"""A page: a template filled in, and the headers by which a browser runs nothing that a web page put into an AltText."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

# No script, no frame, nothing from another server: text from the web stays text even where a template had a hole.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}
# The gate's page has its style in itself. Great Expectations' pages load theirs, and scripts, from elsewhere: they are
# read without, as bare tables.
REPORT_HEADERS = HEADERS | {
    "Content-Security-Policy": "sandbox allow-popups; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"
}


@lru_cache(maxsize=1)
def templates() -> Environment:
    folder = Path(__file__).parent / "templates"
    made = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters["grouped"] = lambda number: f"{number:,}"
    made.filters["share"] = lambda part, whole: f"{part / whole:.1%}" if whole else "–"
    made.globals["query"] = query
    return made


def query(**values: Any) -> str:
    """Return the query string of the *values* that are not empty."""
    given = {name: value for name, value in values.items() if value not in ("", None, 0)}
    return f"?{urlencode(given)}" if given else ""


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return *template* filled in with *values*, every one of them escaped."""
    return HTMLResponse(templates().get_template(template).render(**values), status, HEADERS)

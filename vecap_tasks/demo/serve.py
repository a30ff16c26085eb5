"""Serves the miniature web: every host of `sites/` on one local port, selected by the Host header.

    python -m vecap_tasks.demo.serve [--out DIR] [--host ADDRESS] [--port N]

Requests for other hosts (a browser at localhost) get a list of the sites, each available under `/<host>/`.
`/_requests` returns the number of requests to the sites.
"""

import argparse
import asyncio
import errno
import json
import mimetypes
import os
import sys
from pathlib import Path

from aiohttp import web
from jinja2 import Template

from vecap_tasks.errors import VecapError, format_error

DEFAULT_PORT = 8765
# Pages declare their charset in a <meta>, or not at all: a header would override it.
_TYPES = {".html": "text/html", ".webp": "image/webp", ".txt": "text/plain"}
_HIDDEN = "_"  # prefix of names that are not served
_REQUESTS = "_requests"
_MAX_LISTED = 500
_LISTING = Template(
    "<!doctype html><title>{{ title }}</title><h1>{{ title }}</h1>"
    '<ul>{% for link, text in links %}<li><a href="{{ link }}">{{ text }}</a></li>{% endfor %}</ul>',
    autoescape=True,
)


class Sites:
    """Request handler for the sites of a miniature web."""

    def __init__(self, folder: Path) -> None:
        """Raise VecapError if `folder` has no sites."""
        if not folder.is_dir():
            raise VecapError(f"No miniature web in {folder.parent}; create it: vecap demo web --out {folder.parent}")
        self._folder = folder.resolve()
        self._requests = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Return the file of the requested host and path, or 404."""
        host = (request.host or "").rsplit(":", 1)[0].lower()
        path = request.path.lstrip("/")
        if not self._is_site(host):
            host, _, path = path.partition("/")
            if not host:
                return self._site_list()
            if host == _REQUESTS:
                return web.json_response({"requests": self._requests})
            if not self._is_site(host):
                raise web.HTTPNotFound
        self._requests += 1
        site = self._folder / host
        file = (site / path).resolve()
        if not file.is_relative_to(site) or any(part.startswith(_HIDDEN) for part in file.relative_to(site).parts):
            raise web.HTTPNotFound
        if file == site:
            return self._page_list(host, site)
        if not file.is_file():
            raise web.HTTPNotFound
        kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return web.FileResponse(file, headers={"Content-Type": kind, **_headers(site)})

    def _is_site(self, host: str) -> bool:
        return bool(host) and "/" not in host and not host.startswith(".") and (self._folder / host).is_dir()

    def _site_list(self) -> web.Response:
        hosts = sorted(path.name for path in self._folder.iterdir() if path.is_dir())
        return _listing("The miniature web", [(f"/{host}/", host) for host in hosts])

    def _page_list(self, host: str, site: Path) -> web.Response:
        """List the latest pages of a site, or the images of an image host."""
        files = sorted(site.glob("*/*/*/*.html"), reverse=True) or sorted(
            path for path in site.rglob("*.*") if path.is_file()
        )
        names = [path.relative_to(site).as_posix() for path in files[:_MAX_LISTED]]
        return _listing(host, [(name, name) for name in names])


def _headers(site: Path) -> dict[str, str]:
    """Return the HTTP headers that a site adds to each response, from its file `_headers`."""
    file = site / "_headers"
    return json.loads(file.read_text()) if file.is_file() else {}


def _listing(title: str, links: list[tuple[str, str]]) -> web.Response:
    return web.Response(text=_LISTING.render(title=title, links=links), content_type="text/html")


def create_app(out: Path) -> web.Application:
    """Return the web application that serves `out`/sites. Raises VecapError if the folder is missing."""
    app = web.Application()
    app.router.add_get("/{path:.*}", Sites(out / "sites").handle)
    return app


async def _run(out: Path, host: str, port: int) -> None:
    runner = web.AppRunner(create_app(out), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise VecapError(
                    f"Port {port} on {host} is in use; stop the process that uses it, or choose another with --port"
                ) from error
            raise VecapError(f"Cannot listen on {host}, port {port}: {error.strerror}") from error
        print(f"serving the demo website at http://{host}:{port}/; press Ctrl-C to stop", file=sys.stderr)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def serve(out: Path, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
    """Serve until interrupted. Raises VecapError if there is no web or the port is in use."""
    asyncio.run(_run(out, host, port))


def main() -> int:
    """Serve. Defaults come from `VECAP_HOME` and `VECAP_WEB_PORT`."""
    home = Path(os.environ.get("VECAP_HOME") or ".vecap")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=home / "web", help="folder of the miniature web")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=int(os.environ.get("VECAP_WEB_PORT") or DEFAULT_PORT))
    arguments = parser.parse_args()
    try:
        serve(arguments.out, arguments.host, arguments.port)
    except VecapError as error:
        print(f"error: {format_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

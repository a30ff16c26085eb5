"""Serves the miniature web: every host of `sites/` on one local port, told apart by the Host header.

    python -m vecap_tasks.demo.serve [--out DIR] [--host ADDRESS] [--port N]

A request for a host that is none of the sites (a person's browser at localhost) sees a list of the sites and finds
each under `/<host>/`; `/_requests` says how many requests the sites have had, so that one sees what a run fetched.
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
# Pages say their charset themselves, in a <meta>, or have none: a header here would overrule them.
_TYPES = {".html": "text/html", ".webp": "image/webp", ".txt": "text/plain"}
_HIDDEN = "_"
_REQUESTS = "_requests"
_LISTED = 500
_LISTING = Template(
    "<!doctype html><title>{{ title }}</title><h1>{{ title }}</h1>"
    '<ul>{% for link, text in links %}<li><a href="{{ link }}">{{ text }}</a></li>{% endfor %}</ul>',
    autoescape=True,
)


class Sites:
    """The sites of a miniature web; answers every request."""

    def __init__(self, folder: Path) -> None:
        """Raise VecapError where `folder` holds no sites."""
        if not folder.is_dir():
            raise VecapError(
                f"no miniature web in {folder.parent}; write one with `vecap demo web --out {folder.parent}`"
            )
        self._folder = folder.resolve()
        self._requests = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The file that the host and path name, 404 for none."""
        host = (request.host or "").rsplit(":", 1)[0].lower()
        path = request.path.lstrip("/")
        if not self._is_site(host):
            host, _, path = path.partition("/")
            if not host:
                return self._sites()
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
            return self._pages(host, site)
        if not file.is_file():
            raise web.HTTPNotFound
        kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return web.FileResponse(file, headers={"Content-Type": kind, **_headers(site)})

    def _is_site(self, host: str) -> bool:
        return bool(host) and "/" not in host and not host.startswith(".") and (self._folder / host).is_dir()

    def _sites(self) -> web.Response:
        hosts = sorted(path.name for path in self._folder.iterdir() if path.is_dir())
        return _listing("The miniature web", [(f"/{host}/", host) for host in hosts])

    def _pages(self, host: str, site: Path) -> web.Response:
        """A site's front page: its latest pages, and for a host of images alone its images."""
        found = sorted(site.glob("*/*/*/*.html"), reverse=True) or sorted(
            path for path in site.rglob("*.*") if path.is_file()
        )
        names = [path.relative_to(site).as_posix() for path in found[:_LISTED]]
        return _listing(host, [(name, name) for name in names])


def _headers(site: Path) -> dict[str, str]:
    """HTTP headers that a site adds to each answer, from its file `_headers`."""
    file = site / "_headers"
    return json.loads(file.read_text()) if file.is_file() else {}


def _listing(title: str, links: list[tuple[str, str]]) -> web.Response:
    return web.Response(text=_LISTING.render(title=title, links=links), content_type="text/html")


def application(out: Path) -> web.Application:
    """The web application that serves `out`/sites. Raises VecapError where there are none."""
    app = web.Application()
    app.router.add_get("/{path:.*}", Sites(out / "sites").answer)
    return app


async def _run(out: Path, host: str, port: int) -> None:
    runner = web.AppRunner(application(out), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise VecapError(
                    f"port {port} on {host} is taken; end what listens there or choose another port"
                ) from error
            raise VecapError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def serve(out: Path, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
    """Serve until interrupted. Raises VecapError where there is no web or the port is taken."""
    asyncio.run(_run(out, host, port))


def main() -> int:
    """Serve as the command line and, where it is silent, `VECAP_HOME` and `VECAP_WEB_PORT` say."""
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

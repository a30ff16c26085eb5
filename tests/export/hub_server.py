"""A stand-in for the Hugging Face Hub: a local HTTP server with the part of its API that uploads and reads datasets.

It is not the Hub: it has one token, no Xet storage, and no limits. Large files are uploaded as with Git LFS, or, with
*regular*, all files in the commits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_SMALL = (".md", ".json", ".gitattributes")


@dataclass
class Hub:
    """The state: files of each repository, uploaded objects, titles of commits, and requests as `METHOD path`."""

    token: str
    regular: bool = False
    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    fail_puts: int = 0  # uploads of objects to refuse


@contextmanager
def run_hub(token: str, *, regular: bool = False) -> Iterator[Hub]:
    """Serve an empty hub on localhost."""
    hub = Hub(token, regular)

    class Handler(_Handler):
        state = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_PUT = do_POST

    def _answer(self, body: bytes) -> None:
        path = self.path.partition("?")[0]
        self.state.requests.append(f"{self.command} {path}")
        if path.startswith("/objects/"):
            self._put_object(path.rpartition("/")[2], body)
        elif self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self._send(401, {"error": "Invalid user token."})
        else:
            self._route(path, body)

    def _route(self, path: str, body: bytes) -> None:
        routes = (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda _: self._send(200, {"errors": [], "warnings": []})),
            (r"/api/datasets/([^/]+/[^/]+)/preupload/main", self._preupload),
            (r"/api/datasets/([^/]+/[^/]+)/commit/main", self._commit),
            (r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", self._tree),
            (r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", self._paths),
            (r"/api/datasets/([^/]+/[^/]+)(?:/revision/[^/]+)?", self._info),
            (r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self._resolve),
        )
        for pattern, answer in routes:
            if match := re.fullmatch(pattern, path):
                names = [name for name in match.groups() if name is not None]
                if names and names[0] not in self.state.repositories:
                    self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                else:
                    answer(body, *names)
                return
        self._send(404, {"error": f"unknown path {path}"})

    def _create(self, body: bytes) -> None:
        request = json.loads(body)
        name = f"{request['organization']}/{request['name']}"
        url = f"{self.state.url}/datasets/{name}"
        if name in self.state.repositories:
            self._send(409, {"error": "You already created this dataset repo", "url": url})
            return
        self.state.repositories[name] = {".gitattributes": b"*.tar filter=lfs\n"}
        self.state.private[name] = request.get("visibility") == "private"
        self._send(200, {"url": url, "name": name})

    def _preupload(self, body: bytes, name: str) -> None:
        files = self.state.repositories[name]
        answers = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            mode = "regular" if self.state.regular or path.endswith(_SMALL) else "lfs"
            old = files.get(path)
            oid = None if old is None else _blob(old) if mode == "regular" else hashlib.sha256(old).hexdigest()
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": answers})

    def _batch(self, body: bytes, name: str) -> None:
        answers = []
        for item in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.state.url}/objects/{item['oid']}"}}
            actions = {} if item["oid"] in self.state.objects else {"actions": upload}
            answers.append({"oid": item["oid"], "size": item["size"], **actions})
        self._send(200, {"transfer": "basic", "objects": answers})

    def _put_object(self, oid: str, body: bytes) -> None:
        if self.state.fail_puts:
            self.state.fail_puts -= 1
            self._send(403, {"error": "storage quota exceeded"})
            return
        assert hashlib.sha256(body).hexdigest() == oid
        self.state.objects[oid] = body
        self._send(200, {})

    def _commit(self, body: bytes, name: str) -> None:
        files = self.state.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.state.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        url = f"{self.state.url}/datasets/{name}/commit/{self._sha(name)}"
        self._send(200, {"commitUrl": url, "commitOid": self._sha(name)})

    def _tree(self, body: bytes, name: str, folder: str = "") -> None:
        files = self.state.repositories[name]
        start = f"{folder}/" if folder else ""
        below = [path for path in files if path.startswith(start)]
        if "recursive=true" not in self.path.lower():
            folders = {f"{start}{path[len(start) :].split('/')[0]}" for path in below if "/" in path[len(start) :]}
            below = [*sorted(folders), *(path for path in below if "/" not in path[len(start) :])]
        empty = {"type": "directory", "size": 0, "oid": "0" * 40}
        self._send(200, [_entry(p, files[p]) if p in files else empty | {"path": p} for p in below])

    def _paths(self, body: bytes, name: str) -> None:
        files = self.state.repositories[name]
        wanted = json.loads(body)["paths"]
        self._send(200, [_entry(path, files[path]) for path in wanted if path in files])

    def _info(self, body: bytes, name: str) -> None:
        siblings = [{"rfilename": path} for path in self.state.repositories[name]]
        self._send(200, {"id": name, "sha": self._sha(name), "siblings": siblings, "private": True, "tags": []})

    def _resolve(self, body: bytes, name: str, path: str) -> None:
        data = self.state.repositories[name].get(path)
        if data is None:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        status, extent = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"ETag": f'"{_blob(data)}"', "X-Repo-Commit": self._sha(name), "Accept-Ranges": "bytes"}
        if extent:
            first, last = int(extent[1]), int(extent[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        self._send(status, data, headers)

    def _sha(self, name: str) -> str:
        files = self.state.repositories[name]
        return hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        standard = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for key, text in (standard | (headers or {})).items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}

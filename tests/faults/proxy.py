"""A proxy in front of an S3 server that answers some requests with a fault."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["500", "503", "truncated", "reset", "lost"]
_ERRORS = {"500": ("InternalError", "We encountered an internal error."), "503": ("SlowDown", "Reduce your rate.")}
_DROPPED = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


@dataclass
class FaultyProxy:
    """Forwards to the server *upstream*, a URL. `chosen(method, path)` decides which requests meet `fault`.

    500 and 503 are answers; `truncated` cuts the body of an upload, or of the answer to a read, in half; `reset` closes
    the connection before the request is forwarded, and `lost` afterwards.
    """

    upstream: str
    fault: Fault = "500"
    chosen: Callable[[str, str], bool] = lambda method, path: False
    faults: int = 0
    url: str = field(default="", init=False)

    def sometimes(self, fault: Fault, share: float) -> None:
        """Let *share* of the requests meet *fault*, by a fixed sequence of random numbers."""
        numbers = random.Random(fault)
        self.fault, self.chosen = fault, lambda method, path: numbers.random() < share

    def always(self, fault: Fault, *methods: str) -> None:
        """Let all requests with *methods* meet *fault*."""
        self.fault, self.chosen = fault, lambda method, path: method in methods

    def heal(self) -> None:
        self.chosen = lambda method, path: False


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    target = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.fault if proxy.chosen(self.command, self.path) else None
            proxy.faults += fault is not None
            if fault in _ERRORS:
                self.answer_error(fault)
                return
            if fault == "reset" or (fault == "truncated" and body):
                if body and fault == "truncated":
                    self.send_half(body)
                self.reset()
                return
            upstream_connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            upstream_connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream_connection.putheader(name, value)
            upstream_connection.endheaders(body or None)
            response = upstream_connection.getresponse()
            data = response.read()
            upstream_connection.close()
            if fault == "lost":
                self.reset()
                return
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _DROPPED:
                    self.send_header(name, value)
            length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if fault == "truncated":
                self.wfile.write(data[: len(data) // 2])
                self.reset()
                return
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

        def answer_error(self, fault: str) -> None:
            code, message = _ERRORS[fault]
            data = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            self.send_response(int(fault))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def send_half(self, body: bytes) -> None:
            """Send the server the headers and half of the body, and close the connection."""
            with socket.create_connection((target.hostname or "", target.port or 80), timeout=60) as upstream_socket:
                lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{n}: {v}" for n, v in self.headers.items())]
                upstream_socket.sendall("\r\n".join([*lines, "", ""]).encode() + body[: len(body) // 2])

        def reset(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def log_message(self, *arguments: object) -> None:
            pass

        def finish(self) -> None:
            with suppress(OSError, ValueError):  # the connection was reset
                super().finish()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that closes its connection is part of the test

    server = Server(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()

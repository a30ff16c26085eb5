"""Connections whose responses are parsed as leniently as by browsers.

aiohttp refuses a response for one invalid line, and offers no other parser. So the header of each response is
normalized before aiohttp parses it; bodies pass unchanged.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from vecap_tasks.crawl.http.headers import HEADER_END, MAX_HEADER, may_be_http, normalize_header, status_of
from vecap_tasks.errors import Failure

_SWITCHING_PROTOCOLS = 101


class LenientConnector(aiohttp.TCPConnector):
    """A TCPConnector with lenient parsing of response headers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        handler: type[ResponseHandler] = _LenientHandler
        self._factory = partial(handler, loop=asyncio.get_running_loop())


class _LenientHandler(ResponseHandler):
    """Collects the header of each response, and passes it on normalized. Drops informational responses."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._collecting = False
        self._header = bytearray()
        self._received = 0  # bytes since the request
        self._searched = 0  # bytes of `_header`

    def set_response_params(self, **params: Any) -> None:
        self._collecting = True
        self._header.clear()
        self._received = self._searched = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or not self._collecting:
            super().data_received(data)
            return
        self._header += data
        self._received += len(data)
        if self._header.startswith((b"\r", b"\n")):
            self._header, self._searched = self._header.lstrip(b"\r\n"), 0
        while (end := HEADER_END.search(self._header, max(0, self._searched - 3))) is not None:
            header = bytes(self._header[: end.start()])
            status = status_of(header)
            if not 100 <= status < 200 or status == _SWITCHING_PROTOCOLS:
                self._pass_on(header, bytes(self._header[end.end() :]))
                return
            del self._header[: end.end()]
            self._searched = 0
        self._searched = len(self._header)
        if self._received > MAX_HEADER or not may_be_http(bytes(self._header[:8])):
            self._refuse("no header")

    def _pass_on(self, header: bytes, rest: bytes) -> None:
        self._collecting = False
        self._header.clear()
        if len(header) > MAX_HEADER:
            self._refuse("the header is too long")
            return
        try:
            normalized = normalize_header(header)
        except Failure as failure:
            self._refuse(failure.detail)
            return
        super().data_received(normalized + rest)

    def _refuse(self, message: str) -> None:
        self._collecting = False
        self._header.clear()
        if self.transport is not None:
            self.transport.close()
        self.set_exception(HttpProcessingError(message=message))

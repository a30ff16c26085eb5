"""Chat completions of an OpenAI-compatible server: vLLM, SGLang, TGI, llama.cpp, `transformers serve` …

Requests are bounded in number, tried again where that can help, and spread over the addresses. The key is read from
the environment at the moment of use, and taken out of whatever a server says before anybody else sees it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import aiohttp

from vecap_tasks.config import ModelConfig, ServerConfig, expand
from vecap_tasks.errors import VecapError, one_line
from vecap_tasks.rewrite.draw import Written, failed
from vecap_tasks.rewrite.endpoint import Endpoint

_TEMPORARY = frozenset({408, 409, 425, 500, 502, 503, 504, 529})
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between tries, doubled each time, give or take half
_MOST_BYTES = 4 << 20  # of an answer
_CONNECT_SECONDS = 10.0
_LIST_SECONDS = 10.0  # for what is served; no model works for that
_TOO_LONG = re.compile(
    r"context.{0,20}(?:length|size|window)|too long|(?:maximum|max|exceed)\b.{0,60}\btokens?\b", re.I
)


@dataclass(frozen=True, slots=True)
class Request:
    """Fields of the body besides the model's name and the limits that every request has."""

    messages: list[dict[str, Any]]
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content_type: str
    retry_after: float | None
    data: bytes


class _Unusable(Exception):
    """What came back is no use, though the same request may be answered in another try."""


class Client:
    """Asks one served model, at all its addresses. Raises VecapError where the key is not set."""

    def __init__(self, settings: ModelConfig, server: ServerConfig) -> None:
        self._settings = settings
        self._server = server
        self._key = _key(server)
        self._endpoints = [Endpoint(expand(url).rstrip("/"), server.requests, server.slow) for url in server.urls]
        self._answers = 0

    def ask(self, requests: Iterator[Request | Written]) -> list[Written]:
        """Return the answers in order; what is written already is handed through. Takes requests as it sends them.

        Raises VecapError, in one line, where the server is not there, refuses the key or does not have the model.
        """
        return asyncio.run(self._ask(requests))

    def models(self) -> list[dict[str, Any]]:
        """Return what each address says of the model (`GET /models`), or why it says nothing."""
        return asyncio.run(self._models())

    async def _ask(self, requests: Iterator[Request | Written]) -> list[Written]:
        answers: dict[int, Written] = {}
        places = asyncio.Semaphore(self._server.requests * len(self._endpoints))
        self._changed = asyncio.Event()

        async def answer(place: int, request: Request) -> None:
            try:
                answers[place] = await self._answer(request)
            finally:
                places.release()

        try:
            async with self._session() as session, asyncio.TaskGroup() as tasks:
                self._http = session
                place = 0
                while True:
                    await places.acquire()
                    # Making a request reads tars and decodes images.
                    request = await asyncio.to_thread(next, requests, None)
                    if request is None:
                        break
                    if isinstance(request, Written):
                        answers[place] = request
                        places.release()
                    else:
                        await self._room()
                        tasks.create_task(answer(place, request))
                    place += 1
        except BaseExceptionGroup as group:
            raise _first(group) from None  # what hangs on it may hold a request's headers
        return [answers[place] for place in range(len(answers))]

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        return aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),  # the endpoints bound it
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),  # `_send` keeps the time
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _answer(self, request: Request) -> Written:
        body = self._body(request)
        before = self._answers
        for number in range(1, self._server.tries + 1):
            endpoint = await self._room()
            begun = time.monotonic()
            endpoint.flying += 1
            endpoint.sent += 1
            try:
                answer = await self._send(endpoint.url, "POST", "/chat/completions", body)
                if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
                    endpoint.overloaded(begun, answer.retry_after)
                    reason = self._said(answer)
                elif answer.status in _TEMPORARY:
                    endpoint.failed(begun)
                    if answer.retry_after is not None:
                        endpoint.overloaded(begun, answer.retry_after)
                    reason = self._said(answer)
                else:
                    written = await self._read(endpoint, answer)
                    endpoint.answered(begun)
                    self._answers += 1
                    return written
            except _Unusable as error:
                endpoint.failed(begun)
                reason = str(error)
            finally:
                endpoint.flying -= 1
                self._changed.set()
            if number < self._server.tries:
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (number - 1))
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        if self._answers > before:
            return failed("server_failed")  # others were answered meanwhile: it is this request's own fault
        raise VecapError(
            f"model {self._settings.model} at {endpoint.url}: {reason}, in the last of {self._server.tries} tries; "
            "see that the server is up and the address ends as its API does, mostly in /v1; "
            "then run the same command again"
        )

    async def _room(self) -> Endpoint:
        """Wait for an address that takes one more request, and return the emptiest."""
        while True:
            now = time.monotonic()
            open_now = [one for one in self._endpoints if one.closed_until <= now]
            free = [one for one in open_now if one.load < 1]
            if free:
                return min(free, key=lambda one: (one.load, one.sent))
            closed = [one.closed_until - now for one in self._endpoints if one.closed_until > now]
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), min(closed, default=None))
            except TimeoutError:
                continue

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": request.messages,
            "max_tokens": self._settings.max_new_tokens,
            "temperature": request.temperature,
        }
        if request.temperature:
            body["seed"] = request.seed % (1 << 31)  # some servers take no more bits
        return body | self._server.body

    async def _send(self, url: str, method: str, path: str, body: dict[str, Any] | None = None) -> _Answer:
        """Send one request and read its answer. Raises _Unusable where none came in time."""
        seconds = self._server.deadline if body else min(self._server.deadline, _LIST_SECONDS)
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.request(method, url + path, json=body, allow_redirects=False) as response,
            ):
                data = bytearray()
                async for block in response.content.iter_chunked(1 << 16):
                    data += block
                    if len(data) > _MOST_BYTES:
                        raise _Unusable(f"an answer of more than {_MOST_BYTES} bytes")
                wait = _seconds(response.headers.get("Retry-After"))
                return _Answer(response.status, response.content_type, wait, bytes(data))
        except TimeoutError:
            raise _Unusable(f"no answer within {seconds:g} seconds") from None
        except aiohttp.InvalidURL:
            raise VecapError(f"{url} is no address; correct the model's server.urls") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Unusable(self._hide(one_line(error))) from None

    async def _read(self, endpoint: Endpoint, answer: _Answer) -> Written:
        """Read a completion. Raises _Unusable for what is none, VecapError for a refusal that will come again."""
        if answer.status != HTTPStatus.OK:
            return await self._refused(endpoint, answer)
        if "json" not in answer.content_type:
            raise _Unusable(f"the answer is {answer.content_type}, not JSON")
        try:
            body = json.loads(answer.data)
            choice = body["choices"][0]
            text = choice["message"]["content"] or ""
            reason, usage = choice.get("finish_reason"), body.get("usage") or {}
            if reason == "content_filter":
                return failed("content_filter")
            tokens, asked = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
            return Written(" ".join(text.split()), tokens, reason != "length", asked)
        except ValueError:
            raise _Unusable("the answer is no whole JSON") from None
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _Unusable("the answer is JSON, but no chat completion") from None

    async def _refused(self, endpoint: Endpoint, answer: _Answer) -> Written:
        said = self._said(answer)
        name = self._settings.model
        if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (answer.status < 500 and _TOO_LONG.search(said)):
            return failed("prompt_too_long")
        if "content_filter" in said:
            return failed("content_filter")
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            variable = self._server.api_key_env
            hint = f"correct the key in {variable} on every worker" if variable else "name its key in api_key_env"
            raise VecapError(f"model {name}: {endpoint.url} refuses the key ({said}); {hint}")
        served = await self._names(endpoint.url)
        raise VecapError(
            f"model {name}: {endpoint.url} refuses the request ({said}); it serves {served}; "
            "correct the model's name, or its server.urls"
        )

    async def _names(self, url: str) -> str:
        said = await self._listed(url)
        return ", ".join(str(one.get("id")) for one in said) if isinstance(said, list) and said else "no model it names"

    async def _listed(self, url: str) -> list[dict[str, Any]] | str:
        """Return what `GET /models` lists, or why it lists nothing."""
        try:
            answer = await self._send(url, "GET", "/models")
            if answer.status != HTTPStatus.OK:
                return self._said(answer)
            listed = json.loads(self._hide(answer.data.decode()))["data"]
            return [one for one in listed if isinstance(one, dict)]
        except _Unusable as error:
            return str(error)
        except (ValueError, KeyError, TypeError):
            return "the answer is no list of models"

    async def _models(self) -> list[dict[str, Any]]:
        async with self._session() as self._http:
            said: list[dict[str, Any]] = []
            for written, endpoint in zip(self._server.urls, self._endpoints, strict=True):
                listed = await self._listed(endpoint.url)
                if isinstance(listed, str):
                    said.append({"url": written, "error": listed})
                    continue
                named = [one for one in listed if one.get("id") == self._settings.model]
                said.append({"url": written, "models": named or listed})
            return said

    def _said(self, answer: _Answer) -> str:
        """Return status and message of an answer that is an error, in a line, without the key."""
        text = answer.data.decode(errors="replace")
        try:
            body = json.loads(text)
            error = body.get("error", body.get("detail", body.get("message", body)))
            text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
            if isinstance(error, dict) and error.get("code"):
                text = f"{error['code']}: {text}"
        except (ValueError, AttributeError):
            text = re.sub(r"<[^>]*>", " ", text)
        line = " ".join(self._hide(text).split())[:300]
        return f"{answer.status} {line}".strip()

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _key(server: ServerConfig) -> str | None:
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise VecapError(
            f"the model's key is looked for in {server.api_key_env}, which is not set on this worker; export it"
        )
    if not key.isascii() or not key.isprintable():
        raise VecapError(f"{server.api_key_env} holds no key that a header can carry; export it again")
    return key


def _seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first

"""Chat completions of an OpenAI-compatible server: vLLM, SGLang, TGI, llama.cpp, `transformers serve` …

Requests are bounded in number, tried again where that can help, and spread over the addresses. The key is read from
the environment at the moment of use, and taken out of whatever a server says before anybody else sees it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from vecap_tasks.config import ModelConfig, ServerConfig, expand
from vecap_tasks.errors import VecapError, one_line
from vecap_tasks.rewrite.answer import Answer, Unusable, seconds
from vecap_tasks.rewrite.batches import Finished, unheeded
from vecap_tasks.rewrite.draw import Written, failed
from vecap_tasks.rewrite.endpoint import Endpoint

_TEMPORARY = frozenset({408, 409, 425, 500, 502, 503, 504, 529})
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between tries, doubled each time, give or take half
_MOST_BYTES = 4 << 20  # of an answer
_CONNECT_SECONDS = 10.0
_LIST_SECONDS = 10.0  # for what is served; no model works for that


@dataclass(frozen=True, slots=True)
class Request:
    """Fields of the body besides the model's name and the limits that every request has."""

    messages: list[dict[str, Any]]
    temperature: float
    seed: int


class Client:
    """Asks one served model, at all its addresses. Raises VecapError where the key is not set."""

    def __init__(self, settings: ModelConfig, server: ServerConfig) -> None:
        self._settings = settings
        self._server = server
        self._key = _key(server)
        self._endpoints = [Endpoint(expand(url).rstrip("/"), server.requests, server.slow) for url in server.urls]
        self._answers = 0

    def ask(self, requests: Iterator[Request | Written], finished: Finished = unheeded) -> list[Written]:
        """Return the answers in order; what is written already is handed through. Takes requests as it sends them.

        *finished* is told of each answer.

        Raises VecapError, in one line, where the server is not there, refuses the key or does not have the model.
        """
        return asyncio.run(self._ask(requests, finished))

    def models(self) -> list[dict[str, Any]]:
        """Return what each address says of the model (`GET /models`), or why it says nothing."""
        return asyncio.run(self._models())

    async def _ask(self, requests: Iterator[Request | Written], finished: Finished) -> list[Written]:
        answers: dict[int, Written] = {}
        places = asyncio.Semaphore(self._server.requests * len(self._endpoints))
        self._changed = asyncio.Event()

        async def answer(place: int, request: Request) -> None:
            try:
                answers[place] = await self._answer(request)
                finished({place: answers[place]})
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
                    reason = answer.said()
                elif answer.status in _TEMPORARY:
                    endpoint.failed(begun)
                    if answer.retry_after is not None:
                        endpoint.overloaded(begun, answer.retry_after)
                    reason = answer.said()
                else:
                    written = await self._read(endpoint, answer)
                    endpoint.answered(begun)
                    self._answers += 1
                    return written
            except Unusable as error:
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

    async def _send(self, url: str, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Send one request and read its answer. Raises Unusable where none came in time."""
        limit = self._server.deadline if body else min(self._server.deadline, _LIST_SECONDS)
        try:
            async with (
                asyncio.timeout(limit),
                self._http.request(method, url + path, json=body, allow_redirects=False) as response,
            ):
                data = bytearray()
                async for block in response.content.iter_chunked(1 << 16):
                    data += block
                    if len(data) > _MOST_BYTES:
                        raise Unusable(f"an answer of more than {_MOST_BYTES} bytes")
                wait = seconds(response.headers.get("Retry-After"))
                text = self._hide(data.decode(errors="replace"))
                return Answer(response.status, response.content_type, wait, text)
        except TimeoutError:
            raise Unusable(f"no answer within {limit:g} seconds") from None
        except aiohttp.InvalidURL:
            raise VecapError(f"{url} is no address; correct the model's server.urls") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unusable(self._hide(one_line(error))) from None

    async def _read(self, endpoint: Endpoint, answer: Answer) -> Written:
        """Read a completion. Raises Unusable for what is none, VecapError for a refusal that will come again."""
        if answer.status == HTTPStatus.OK:
            return answer.completion()
        refused = answer.refusal()
        if refused is not None:
            return refused
        said, name = answer.said(), self._settings.model
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
                return answer.said()
            listed = json.loads(answer.text)["data"]
            return [one for one in listed if isinstance(one, dict)]
        except Unusable as error:
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


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first

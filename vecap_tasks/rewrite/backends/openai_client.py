"""Chat completions of OpenAI-compatible servers: vLLM, SGLang, TGI, llama.cpp, `transformers serve` and others."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import aiohttp

from vecap_tasks.config import ModelConfig, ServerConfig, expand
from vecap_tasks.errors import PermanentError, VecapError, format_error, retry_after_seconds
from vecap_tasks.rewrite.backends.openai_errors import (
    KNOWN_ROW_FAULTS,
    ROW_FAULTS,
    Answer,
    Fault,
    InvalidResponse,
    classify,
)
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, failed, ignore_finished

_FIRST = 8  # requests in flight to begin with
_ASIDE_AFTER = 3  # failures in a row
_ASIDE_SECONDS = (1.0, 60.0)  # the first time, and at most
_LONGEST_RETRY_AFTER = 300.0  # seconds that a server's Retry-After is believed
_TEMPORARY = frozenset({408, 409, 424, 425, 429, 500, 502, 503, 504, 529})
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between tries, doubled each time, give or take half
_MOST_BYTES = 4 << 20  # of an answer
_CONNECT_SECONDS = 10.0
_LIST_SECONDS = 10.0  # for what is served; no model works for that
_NEW_LIMIT_NAME: set[tuple[str, str]] = set()  # (URL, model) that want `max_completion_tokens`, in this process

Messages = Sequence[dict[str, Any]]


class Endpoint:
    """Raises the number of requests in flight by one a round, and halves it where the server is overloaded or slow.

    Additive increase and multiplicative decrease, after a first phase of doubling (Jacobson, 1988). Overload is told
    by many requests at once: what was sent before the last halving halves nothing again. An address that fails again
    and again is left aside, for longer each time, and then tried with a single request.
    """

    def __init__(self, url: str, most: int, slow: float) -> None:
        self.url = url
        self.flying = 0
        self.sent = 0
        self.limit = float(min(_FIRST, most))
        self.closed_until = 0.0  # on the clock of time.monotonic
        self.wrote = -math.inf  # when it last sent a text, on the same clock
        self._most = most
        self._slow = slow
        self._cut = 0.0
        self._failures = 0

    @property
    def load(self) -> float:
        """How full the address is; from 1 it takes no more."""
        return self.flying / int(self.limit)

    def answered(self, begun: float) -> None:
        """Note an answer to a request sent at *begun*."""
        self._failures = 0
        if time.monotonic() - begun > self._slow:
            self._lower(begun)
            return
        step = 1 / self.limit if self._cut else 1
        self.limit = min(float(self._most), self.limit + step)

    def overloaded(self, begun: float, wait: float | None) -> None:
        """Note that the server asks for less, and for nothing in the next *wait* seconds if it says so."""
        self._lower(begun)
        if wait is not None:
            self.closed_until = max(self.closed_until, time.monotonic() + min(wait, _LONGEST_RETRY_AFTER))

    def failed(self, begun: float) -> None:
        """Note a request without a usable answer."""
        self._lower(begun)
        self._failures += 1
        if self._failures >= _ASIDE_AFTER:
            first, longest = _ASIDE_SECONDS
            aside = min(longest, first * 2 ** (self._failures - _ASIDE_AFTER))
            self.closed_until = max(self.closed_until, time.monotonic() + aside)
            self.limit = 1.0

    def _lower(self, begun: float) -> None:
        if begun >= self._cut:
            self.limit = max(1.0, self.limit / 2)
            self._cut = time.monotonic()


@dataclass(frozen=True, slots=True)
class Request:
    """Fields of the body besides the model's name and the limits that every request has."""

    messages: Messages
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a request has no text, and the addresses that said so."""

    fault: Fault
    said: str
    endpoints: Sequence[Endpoint]


class Client:
    """Asks one served model, at all its addresses. Raises PermanentError if the key is not set.

    *test* is a short request, sent where it is unclear whether a row or the job is at fault.
    """

    def __init__(self, settings: ModelConfig, server: ServerConfig, test: Messages = ()) -> None:
        self._settings = settings
        self._server = server
        self._key = _key(server)
        self._endpoints = [
            Endpoint(expand(url).rstrip("/"), server.requests, server.latency_threshold) for url in server.urls
        ]
        self._test = test

    def ask(
        self, requests: Iterator[Request | GeneratedText], finished: OnFinished = ignore_finished
    ) -> list[GeneratedText]:
        """Return the answers in order; what is written already is handed through. Takes requests as it sends them.

        *finished* is told of each answer. A row that the server refuses has the problem in place of a text.

        Raises VecapError if the server does not answer, PermanentError if it refuses the key, does not have the model,
        or refuses any request.
        """
        return asyncio.run(self._ask(requests, finished))

    def models(self) -> list[dict[str, Any]]:
        """Return what each address says of the model (`GET /models`), or why it says nothing."""
        return asyncio.run(self._models())

    async def _ask(self, requests: Iterator[Request | GeneratedText], finished: OnFinished) -> list[GeneratedText]:
        answers: dict[int, GeneratedText] = {}
        places = asyncio.Semaphore(self._server.requests * len(self._endpoints))
        self._changed = asyncio.Event()
        self._testing = asyncio.Lock()

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
                    if isinstance(request, GeneratedText):
                        answers[place] = request
                        places.release()
                    else:
                        await self._room(self._endpoints)
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

    async def _answer(self, request: Request) -> GeneratedText:
        begun = time.monotonic()
        outcome = await self._exchange(request, self._endpoints, self._server.max_attempts)
        if isinstance(outcome, GeneratedText):
            return outcome
        await self._blame_the_row(outcome, request, begun)
        return failed(outcome.fault, outcome.said)

    async def _exchange(self, request: Request, endpoints: Sequence[Endpoint], tries: int) -> GeneratedText | _Refusal:
        """Return the text, or why there is none; tries again where that can help."""
        for number in range(1, tries + 1):
            endpoint = await self._room(endpoints)
            begun = time.monotonic()
            endpoint.flying += 1
            endpoint.sent += 1
            try:
                answer = await self._post(endpoint.url, request)
                if answer.status == HTTPStatus.OK:
                    written = answer.completion()
                    endpoint.answered(begun)
                    endpoint.wrote = time.monotonic()
                    return written
                error = answer.error
                reason, fault = str(error), classify(error)
                if error.status not in _TEMPORARY or fault in KNOWN_ROW_FAULTS:
                    endpoint.answered(begun)
                    return _Refusal(fault, reason, (endpoint,))
                if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                    endpoint.overloaded(begun, answer.retry_after)
                else:
                    endpoint.failed(begun)
                    if answer.retry_after is not None:
                        endpoint.overloaded(begun, answer.retry_after)
            except InvalidResponse as error:
                endpoint.failed(begun)
                reason = str(error)
            finally:
                endpoint.flying -= 1
                self._changed.set()
            if number < tries:
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (number - 1))
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        return _Refusal(Fault.FAILED, f"{endpoint.url}: {reason}", endpoints)

    async def _blame_the_row(self, refusal: _Refusal, request: Request, begun: float) -> None:
        """Return where the server refused a *request* for its content; raise VecapError where it would refuse any.

        The row is at fault where the server meanwhile wrote another text, else where it answers a short test request
        with the same parameters. An error in known words needs only that it ever wrote one.
        """
        if refusal.fault not in ROW_FAULTS:
            raise await self._job_error(refusal)
        since = -math.inf if refusal.fault in KNOWN_ROW_FAULTS else begun
        async with self._testing:  # one is enough for all that are in flight
            if any(endpoint.wrote > since for endpoint in refusal.endpoints):
                return
            endpoints, tries = refusal.endpoints, self._server.max_attempts
            if refusal.fault == Fault.FAILED:  # after all the tries and their waits: once, and now
                endpoint = min(endpoints, key=lambda one: one.closed_until)
                endpoint.closed_until = 0.0
                endpoints, tries = (endpoint,), 1
            outcome = await self._exchange(replace(request, messages=self._test), endpoints, tries)
        if isinstance(outcome, _Refusal):
            raise await self._job_error(outcome)

    async def _job_error(self, refusal: _Refusal) -> VecapError:
        name, url = self._settings.model, refusal.endpoints[0].url
        if refusal.fault == Fault.FAILED:
            return VecapError(
                f"model {name} at {refusal.said}, in the last of {self._server.max_attempts} tries; "
                "see that the server is up and the address ends as its API does, mostly in /v1; "
                "then run the same command again"
            )
        if refusal.fault == Fault.KEY:
            variable = self._server.api_key_env
            hint = f"correct the key in {variable} on every worker" if variable else "name its key in api_key_env"
            return PermanentError(f"model {name}: {url} refuses the key ({refusal.said}); {hint}")
        if refusal.fault in (Fault.PARAMETER, Fault.LIMIT_NAME):
            hint = "correct the setting that sends it: max_new_tokens, temperature, or server.body"
        else:
            hint = f"it serves {await self._names(url)}; correct the model's name, or its server.urls"
            if refusal.fault != Fault.MODEL:
                hint = f"it refuses a short test request too, so no row can pass; {hint}, or the server's own settings"
        return PermanentError(f"model {name}: {url} refuses the request ({refusal.said}); {hint}")

    async def _post(self, url: str, request: Request) -> Answer:
        """Send *request*, once more where the server wants `max_completion_tokens`; it gets that from then on."""
        served = (url, self._settings.model)
        body = self._body(request, "max_completion_tokens" if served in _NEW_LIMIT_NAME else "max_tokens")
        answer = await self._send(url, "POST", "/chat/completions", body)
        if "max_tokens" in body and answer.status != HTTPStatus.OK and classify(answer.error) == Fault.LIMIT_NAME:
            _NEW_LIMIT_NAME.add(served)
            body = self._body(request, "max_completion_tokens")
            answer = await self._send(url, "POST", "/chat/completions", body)
        return answer

    async def _room(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """Wait for one of *endpoints* that takes one more request, and return the emptiest."""
        while True:
            now = time.monotonic()
            open_now = [one for one in endpoints if one.closed_until <= now]
            free = [one for one in open_now if one.load < 1]
            if free:
                return min(free, key=lambda one: (one.load, one.sent))
            closed = [one.closed_until - now for one in endpoints if one.closed_until > now]
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), min(closed, default=None))
            except TimeoutError:
                continue

    def _body(self, request: Request, limit_name: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": request.messages,
            limit_name: self._settings.max_new_tokens,
            "temperature": request.temperature,
        }
        if request.temperature:
            body["seed"] = request.seed % (1 << 31)  # some servers take no more bits
        return body | self._server.body

    async def _send(self, url: str, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Send one request and read its answer. Raises InvalidResponse where none came in time."""
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
                        raise InvalidResponse(f"an answer of more than {_MOST_BYTES} bytes")
                wait = retry_after_seconds(response.headers.get("Retry-After"))
                text = self._hide(data.decode(errors="replace"))
                return Answer(response.status, response.content_type, wait, text)
        except TimeoutError:
            raise InvalidResponse(f"no answer within {limit:g} seconds") from None
        except aiohttp.InvalidURL:
            raise PermanentError(f"{url} is no address; correct the model's server.urls") from None
        except (aiohttp.ClientError, OSError) as error:
            raise InvalidResponse(self._hide(format_error(error))) from None

    async def _names(self, url: str) -> str:
        said = await self._listed(url)
        return ", ".join(str(one.get("id")) for one in said) if isinstance(said, list) and said else "no model it names"

    async def _listed(self, url: str) -> list[dict[str, Any]] | str:
        """Return what `GET /models` lists, or why it lists nothing."""
        try:
            answer = await self._send(url, "GET", "/models")
            if answer.status != HTTPStatus.OK:
                return str(answer.error)
            listed = json.loads(answer.text)["data"]
            return [one for one in listed if isinstance(one, dict)]
        except InvalidResponse as error:
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
        raise PermanentError(
            f"the model's key is looked for in {server.api_key_env}, which is not set on this worker; export it"
        )
    if not key.isascii() or not key.isprintable():
        raise PermanentError(f"{server.api_key_env} holds no key that a header can carry; export it again")
    return key


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first

"""Client for chat completions of OpenAI-compatible servers: vLLM, SGLang, TGI, llama.cpp, `transformers serve`."""

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
from vecap_tasks.errors import PermanentError, format_error, retry_after_seconds
from vecap_tasks.outages import Cause, Outage
from vecap_tasks.redaction import learn_value
from vecap_tasks.rewrite.backends.openai_endpoint import Endpoint, acquire_endpoint
from vecap_tasks.rewrite.backends.openai_errors import (
    KNOWN_ROW_FAULTS,
    ROW_FAULTS,
    Fault,
    InvalidResponse,
    Response,
    classify,
)
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, failed, ignore_finished

_RETRYABLE_STATUSES = frozenset({408, 409, 424, 425, 429, 500, 502, 503, 504, 529})
_UNAVAILABLE_STATUSES = frozenset({429, 502, 503, 504, 529})
_CHECK_SERVER = (
    "check that the server is up and that the URL has its API path, usually /v1; then run the same command again"
)
_MAX_OUTAGES = 8  # that one row meets; the request may crash the server
_MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.5, 30.0  # exponential backoff with a jitter of 50 %
_MAX_RESPONSE_BYTES = 4 << 20
_CONNECT_TIMEOUT = 10.0
_LIST_MODELS_TIMEOUT = 10.0
_WANTS_MAX_COMPLETION_TOKENS: set[tuple[str, str]] = set()  # (URL, model) that reject `max_tokens`; per process

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """The request-specific fields of the body."""

    messages: Messages
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request failed, the endpoints that reported it, and when its last attempt was sent.

    `unavailable`: the server did not process the request, so that it says nothing about the row.
    """

    fault: Fault
    message: str
    endpoints: Sequence[Endpoint]
    sent: float = 0.0  # time.monotonic
    unavailable: bool = False

    def was_followed_by_success(self) -> bool:
        return any(endpoint.last_success > self.sent for endpoint in self.endpoints)


class Client:
    """Sends requests to all URLs of one served model. Raises PermanentError if the API key is not set.

    *probe* is a short test request. It shows whether a row or the whole job is at fault.
    """

    def __init__(self, settings: ModelConfig, server: ServerConfig, probe: Messages = ()) -> None:
        self._settings = settings
        self._server = server
        self._key = _key(server)
        self._endpoints = [
            Endpoint(expand(url).rstrip("/"), server.requests, server.latency_threshold) for url in server.urls
        ]
        self._probe = probe
        self._last_outage = -math.inf  # its end, time.monotonic

    def generate(
        self, requests: Iterator[Request | GeneratedText], on_finished: OnFinished = ignore_finished
    ) -> list[GeneratedText]:
        """Return the generated texts in order. Consumes *requests* while it sends them; passes GeneratedTexts through.

        *on_finished* gets each text. A row that the server rejects has a `problem`.

        Waits while the server does not answer, then raises OutageError. Raises PermanentError if it rejects the API
        key, the model or every request.
        """
        return asyncio.run(self._generate(requests, on_finished))

    def models(self) -> list[dict[str, Any]]:
        """Return what `GET /models` of each URL reports about the model, or the error."""
        return asyncio.run(self._models())

    async def _generate(
        self, requests: Iterator[Request | GeneratedText], on_finished: OnFinished
    ) -> list[GeneratedText]:
        results: dict[int, GeneratedText] = {}
        free_slots = asyncio.Semaphore(self._server.requests * len(self._endpoints))
        self._capacity_changed = asyncio.Event()
        self._probe_lock = asyncio.Lock()

        async def run(index: int, request: Request) -> None:
            try:
                results[index] = await self._complete(request)
                on_finished({index: results[index]})
            finally:
                free_slots.release()

        try:
            async with self._session() as session, asyncio.TaskGroup() as tasks:
                self._http = session
                index = 0
                while True:
                    await free_slots.acquire()
                    # The iterator reads tars and decodes images.
                    request = await asyncio.to_thread(next, requests, None)
                    if request is None:
                        break
                    if isinstance(request, GeneratedText):
                        results[index] = request
                        free_slots.release()
                    else:
                        await acquire_endpoint(self._endpoints, self._capacity_changed)
                        tasks.create_task(run(index, request))
                    index += 1
        except BaseExceptionGroup as group:
            raise _first_exception(group) from None  # the group can hold request headers with the key
        return [results[index] for index in range(len(results))]

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        return aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),  # endpoints limit the requests
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT),  # `_send` has the total timeout
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _complete(self, request: Request) -> GeneratedText:
        started = time.monotonic()
        for _ in range(_MAX_OUTAGES):
            result = await self._post_retrying(request, self._endpoints, self._server.max_attempts)
            if isinstance(result, GeneratedText):
                return result
            if result.fault != Fault.FAILED:
                await self._check_row_fault(result, request, started)
                return failed(result.fault, result.message)
            failure = result
            if await self._wait_for_server(failure, request) and not failure.unavailable:
                break
        return failed(failure.fault, failure.message)

    async def _post_retrying(
        self, request: Request, endpoints: Sequence[Endpoint], attempts: int
    ) -> GeneratedText | _Failure:
        """Return the text or the failure; retries temporary errors, but not while all *endpoints* are down."""
        for number in range(1, attempts + 1):
            endpoint = await acquire_endpoint(endpoints, self._capacity_changed)
            started = time.monotonic()
            endpoint.in_flight += 1
            endpoint.sent += 1
            unavailable = False
            try:
                response = await self._post(endpoint.url, request)
                if response.status == HTTPStatus.OK:
                    text = response.completion()
                    endpoint.record_response(started)
                    endpoint.last_success = time.monotonic()
                    return text
                error = response.error
                reason, fault = str(error), classify(error)
                if error.status not in _RETRYABLE_STATUSES or fault != Fault.REFUSED:
                    endpoint.record_response(started)
                    return _Failure(fault, reason, (endpoint,))
                unavailable = error.status in _UNAVAILABLE_STATUSES
                if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                    endpoint.record_overload(started, response.retry_after)
                else:
                    endpoint.record_failure(started)
                    if response.retry_after is not None:
                        endpoint.record_overload(started, response.retry_after)
            except InvalidResponse as error:
                endpoint.record_failure(started)
                reason, unavailable = str(error), error.unavailable
            finally:
                endpoint.in_flight -= 1
                self._capacity_changed.set()
            if unavailable and all(endpoint.is_down for endpoint in endpoints):
                break
            if number < attempts:
                wait = min(_MAX_RETRY_SECONDS, _MIN_RETRY_SECONDS * 2 ** (number - 1))
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        return _Failure(Fault.FAILED, f"{endpoint.url}: {reason}", endpoints, started, unavailable)

    async def _wait_for_server(self, failure: _Failure, request: Request) -> bool:
        """Wait until the server answers; return whether it did so after the last attempt of *request*, without a wait.

        One of the failed requests waits for all of them, with short test requests. Raises OutageError.
        """
        model = f"model {self._settings.model}"
        async with self._probe_lock:
            if self._last_outage > failure.sent:
                return False
            if failure.was_followed_by_success():
                return True
            outage: Outage | None = None
            while not failure.was_followed_by_success():
                endpoint = min(failure.endpoints, key=lambda endpoint: endpoint.closed_until)
                if endpoint.is_down:
                    endpoint.closed_until = 0.0
                result = await self._post_retrying(replace(request, messages=self._probe), (endpoint,), 1)
                if isinstance(result, GeneratedText):  # now it was followed by one
                    continue
                if result.fault != Fault.FAILED:
                    raise await self._job_error(result)
                outage = outage or Outage()
                cause = Cause(model, f"{model} at {result.message}", _CHECK_SERVER)
                end = time.monotonic() + outage.next_pause(cause)
                while (left := end - time.monotonic()) > 0 and not failure.was_followed_by_success():
                    await asyncio.sleep(min(left, 0.5))
            if outage is None:
                return True
            outage.end(cause)
            self._last_outage = time.monotonic()
            return False

    async def _check_row_fault(self, failure: _Failure, request: Request, started: float) -> None:
        """Return if *failure* is the fault of this row; raise VecapError if the server would fail every request.

        A row is at fault if the server answered another request meanwhile, or answers a short test request with the
        same parameters. A known row fault only requires that the server ever answered.
        """
        if failure.fault not in ROW_FAULTS:
            raise await self._job_error(failure)
        since = -math.inf if failure.fault in KNOWN_ROW_FAULTS else started
        async with self._probe_lock:  # one test request for all failures in flight
            if any(endpoint.last_success > since for endpoint in failure.endpoints):
                return
            probe = replace(request, messages=self._probe)
            result = await self._post_retrying(probe, failure.endpoints, self._server.max_attempts)
        if isinstance(result, _Failure) and result.fault == Fault.FAILED:
            await self._wait_for_server(result, request)
        elif isinstance(result, _Failure):
            raise await self._job_error(result)

    async def _job_error(self, failure: _Failure) -> PermanentError:
        name, url = self._settings.model, failure.endpoints[0].url
        if failure.fault == Fault.KEY:
            variable = self._server.api_key_env
            hint = f"correct the key in {variable} on every worker" if variable else "set api_key_env to its variable"
            return PermanentError(f"model {name}: {url} rejected the API key ({failure.message}); {hint}")
        if failure.fault == Fault.QUOTA:
            hint = "add credit to the account or raise its limit, then run the same command again"
        elif failure.fault in (Fault.PARAMETER, Fault.LIMIT_NAME):
            hint = "correct the setting that sends it: max_new_tokens, temperature, or server.body"
        else:
            hint = f"it serves {await self._model_names(url)}; correct the model's name, or its server.urls"
            if failure.fault != Fault.MODEL:
                hint = f"it also rejected a short test request, so no row can pass; {hint} or the server's own settings"
        return PermanentError(f"model {name}: {url} rejected the request ({failure.message}); {hint}")

    async def _post(self, url: str, request: Request) -> Response:
        """Send *request*; resend it with `max_completion_tokens`, then and later, if the server requires that name."""
        served = (url, self._settings.model)
        body = self._body(request, "max_completion_tokens" if served in _WANTS_MAX_COMPLETION_TOKENS else "max_tokens")
        response = await self._send(url, "POST", "/chat/completions", body)
        if "max_tokens" in body and response.status != HTTPStatus.OK and classify(response.error) == Fault.LIMIT_NAME:
            _WANTS_MAX_COMPLETION_TOKENS.add(served)
            body = self._body(request, "max_completion_tokens")
            response = await self._send(url, "POST", "/chat/completions", body)
        return response

    def _body(self, request: Request, limit_name: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": request.messages,
            limit_name: self._settings.max_new_tokens,
            "temperature": request.temperature,
        }
        if request.temperature:
            body["seed"] = request.seed % (1 << 31)  # some servers accept only 31 bits
        return body | self._server.body

    async def _send(self, url: str, method: str, path: str, body: dict[str, Any] | None = None) -> Response:
        """Send one request and return the response. Raises InvalidResponse if none arrives in time."""
        limit = self._server.deadline if body else min(self._server.deadline, _LIST_MODELS_TIMEOUT)
        try:
            async with (
                asyncio.timeout(limit),
                self._http.request(method, url + path, json=body, allow_redirects=False) as response,
            ):
                data = bytearray()
                async for block in response.content.iter_chunked(1 << 16):
                    data += block
                    if len(data) > _MAX_RESPONSE_BYTES:
                        raise InvalidResponse(f"response is larger than {_MAX_RESPONSE_BYTES} bytes")
                wait = retry_after_seconds(response.headers.get("Retry-After"))
                text = self._redact(data.decode(errors="replace"))
                return Response(response.status, response.content_type, wait, text)
        except aiohttp.ConnectionTimeoutError:
            raise InvalidResponse(f"no connection within {_CONNECT_TIMEOUT:g} seconds", unavailable=True) from None
        except TimeoutError:
            raise InvalidResponse(f"no response within {limit:g} seconds") from None
        except aiohttp.InvalidURL:
            raise PermanentError(f"{url} is not a valid URL; correct the model's server.urls") from None
        except aiohttp.ClientSSLError as error:
            raise PermanentError(f"{url}: {format_error(error)}; correct the server's certificate or the URL") from None
        except (aiohttp.ClientError, OSError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError)
            raise InvalidResponse(self._redact(format_error(error)), unavailable=refused) from None

    async def _model_names(self, url: str) -> str:
        models = await self._list_models(url)
        names = [str(model.get("id")) for model in models if isinstance(model, dict)]
        return ", ".join(names) or "no listed model"

    async def _list_models(self, url: str) -> list[dict[str, Any]] | str:
        """Return the models that `GET /models` lists, or the error."""
        try:
            response = await self._send(url, "GET", "/models")
            if response.status != HTTPStatus.OK:
                return str(response.error)
            listed = json.loads(response.text)["data"]
            return [model for model in listed if isinstance(model, dict)]
        except InvalidResponse as error:
            return str(error)
        except (ValueError, RecursionError, KeyError, TypeError):
            return "the response is not a list of models"

    async def _models(self) -> list[dict[str, Any]]:
        async with self._session() as self._http:
            servers: list[dict[str, Any]] = []
            for url, endpoint in zip(self._server.urls, self._endpoints, strict=True):
                models = await self._list_models(endpoint.url)
                if isinstance(models, str):
                    servers.append({"url": url, "error": models})
                    continue
                matching = [model for model in models if model.get("id") == self._settings.model]
                servers.append({"url": url, "models": matching or models})
            return servers

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _key(server: ServerConfig) -> str | None:
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise PermanentError(
            f"{server.api_key_env}, which holds the model's API key, is not set on this worker; export it"
        )
    if not key.isascii() or not key.isprintable():
        raise PermanentError(f"{server.api_key_env} has characters that an HTTP header cannot carry; export it again")
    learn_value(server.api_key_env, key)
    return key


def _first_exception(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_exception(first) if isinstance(first, BaseExceptionGroup) else first

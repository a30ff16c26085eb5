"""A chat-completions server on localhost with scripted responses, and requests to it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from vecap_tasks.config import ModelConfig
from vecap_tasks.rewrite.backends.sampling_params import GREEDY, GeneratedText, Sampling
from vecap_tasks.rewrite.openai_models import ServedLlm
from vecap_tasks.rewrite.prompt import load_prompt

CANARY = "sk-canary-3f9a"  # an API key that must not leak


@dataclass
class ReceivedRequest:
    """A received request; `number` counts from 0."""

    number: int
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        content = self.body["messages"][0]["content"]
        return content if isinstance(content, str) else content[-1]["text"]


Handler = Callable[[ReceivedRequest], Awaitable[web.StreamResponse]]


def completion(text: str, finish: str = "stop") -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 11, "completion_tokens": len(text.split()) + 1}
    return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})


def error(status: int, message: str, **headers: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


async def echo(request: ReceivedRequest) -> web.StreamResponse:
    """Answer with the end of the request text."""
    return completion(f"a picture of {request.text[-40:]}")


def rejecting(marked: Mapping[str, tuple[int, Any]], answer: Handler = echo) -> Handler:
    """Return a handler that rejects requests with a mark (in the text or base64 image) with its status and body."""

    async def handle(request: ReceivedRequest) -> web.StreamResponse:
        sent = json.dumps(request.body["messages"])
        for mark, (status, body) in marked.items():
            if mark in sent:
                return web.json_response(body, status=status)
        return await answer(request)

    return handle


class Server:
    """Serves the model `tiny` with the handler `answer`. A context manager; runs in a thread."""

    def __init__(self, answer: Handler = echo) -> None:
        self.answer = answer
        self.requests: list[ReceivedRequest] = []
        self.max_in_flight = 0  # in flight at once
        self._in_flight = 0
        self._loop = asyncio.new_event_loop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _completions(self, web_request: web.Request) -> web.StreamResponse:
        body = json.loads(await web_request.read())
        request = ReceivedRequest(len(self.requests), web_request.path, body, dict(web_request.headers))
        self.requests.append(request)
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            return await self.answer(request)
        finally:
            self._in_flight -= 1

    async def _models(self, request: web.Request) -> web.StreamResponse:
        echoed = request.headers.get("Authorization", "")
        return web.json_response({"object": "list", "data": [{"id": "tiny", "owned_by": "us", "note": echoed}]})


def settings(*urls: str, **server: Any) -> ModelConfig:
    """Return the settings of a model served at *urls*; *server* has more settings of the server or the model."""
    more = {key: server.pop(key) for key in ("max_new_tokens", "model") if key in server}
    values = {
        "backend": "openai",
        "model": "tiny",
        "prompt": "fuse",
        "server": {"urls": urls, "max_attempts": 3} | server,
    }
    return ModelConfig.model_validate(values | more)


def fuse(model: ModelConfig, count: int = 1, sampling: Sampling = GREEDY) -> list[GeneratedText]:
    """Fuse *count* pairs with *model*."""
    pairs = [(f"Name {number}", f"thing {number}") for number in range(count)]
    return ServedLlm(model, load_prompt("fuse"), 512).fuse([(pair, sampling) for pair in pairs])

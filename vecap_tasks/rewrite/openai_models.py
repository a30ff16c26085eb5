"""VLM and LLM on OpenAI-compatible servers: images as data URLs, chat templates on the server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from vecap_tasks.config import ModelConfig, ServerConfig
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.rewrite.accepted_rows import DECODE_THREADS, ImageInput
from vecap_tasks.rewrite.backends.openai_client import Client, Request
from vecap_tasks.rewrite.backends.openai_errors import Fault
from vecap_tasks.rewrite.backends.sampling_params import (
    GREEDY,
    GeneratedText,
    OnFinished,
    Sampling,
    failed,
    ignore_finished,
)
from vecap_tasks.rewrite.prompt import Prompt, Texts
from vecap_tasks.rewrite.sanitize import clean


class ServedVlm:
    """A served vision-language model with its prompt."""

    decode_threads = DECODE_THREADS

    def __init__(self, settings: ModelConfig, prompt: Prompt) -> None:
        self._prompt = prompt
        self._client = Client(settings, _server(settings), self._request(_gray_jpeg(), GREEDY).messages)

    def describe(
        self, requests: Iterator[tuple[ImageInput, Sampling]], on_finished: OnFinished = ignore_finished
    ) -> list[GeneratedText]:
        """Describe each image. The problem is `unreadable_image` if there is no image.

        *on_finished* gets each text.
        """
        return self._client.generate(self._requests(requests), on_finished)

    def _requests(self, requests: Iterator[tuple[ImageInput, Sampling]]) -> Iterator[Request | GeneratedText]:
        for item, sampling in requests:
            if item.image is None:
                yield failed("unreadable_image")
                continue
            yield self._request(item.jpeg, sampling)

    def _request(self, jpeg: bytes, sampling: Sampling) -> Request:
        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        return _request(
            [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self._prompt.text}], sampling
        )


class ServedLlm:
    """A served language model with its prompt."""

    def __init__(self, settings: ModelConfig, prompt: Prompt, max_alttext_chars: int) -> None:
        self._prompt = prompt
        self._max_chars = max_alttext_chars
        probe = self._request(("A cat", "a cat"), GREEDY, max_alttext_chars).messages
        self._client = Client(settings, _server(settings), probe)

    def fuse(
        self, requests: Sequence[tuple[Texts, Sampling]], on_finished: OnFinished = ignore_finished
    ) -> list[GeneratedText]:
        """Generate a text for each (AltText, VeC). Halves the AltText while the server reports a too long prompt.

        *on_finished* gets each text.
        """
        results: dict[int, GeneratedText] = {}
        limit = self._max_chars
        pending = list(range(len(requests)))
        while pending:
            indices = tuple(pending)

            def report(batch: Mapping[int, GeneratedText], indices: tuple[int, ...] = indices) -> None:
                on_finished({indices[number]: text for number, text in batch.items()})

            texts = self._client.generate(iter([self._request(*requests[index], limit) for index in pending]), report)
            results |= zip(pending, texts, strict=True)
            too_long = [index for index in pending if results[index].problem == Fault.PROMPT_TOO_LONG]
            pending = [index for index in too_long if limit and len(requests[index][0][0]) > limit // 2]
            limit //= 2
        return [results[index] for index in range(len(requests))]

    def _request(self, texts: Texts, sampling: Sampling, limit: int) -> Request:
        # Only the server knows its special tokens; `clean` removes the markers of common chat formats.
        alttext, vec = clean(texts[0], (), limit), clean(texts[1], (), self._max_chars)
        return _request(self._prompt.fill(alttext=alttext, vec=vec), sampling)


def describe_server(settings: ModelConfig) -> dict[str, Any]:
    """Return the model's name, its configured revision, and what each URL reports about it."""
    server = _server(settings)
    try:
        servers: list[dict[str, Any]] = Client(settings, server).models()
    except VecapError as error:
        servers = [{"error": str(error)}]
    return {"model": settings.model, "revision": server.revision, "addresses": servers}


def _server(settings: ModelConfig) -> ServerConfig:
    if settings.server is None:
        raise PermanentError(f"model {settings.model} has no server; set its URLs in `server.urls`")
    return settings.server


def _gray_jpeg() -> bytes:
    """Return a valid 224 x 224 JPEG for test requests."""
    stream = io.BytesIO()
    Image.new("RGB", (224, 224), "gray").save(stream, "JPEG")
    return stream.getvalue()


def _request(content: str | list[dict[str, Any]], sampling: Sampling) -> Request:
    return Request([{"role": "user", "content": content}], sampling.temperature, sampling.seed)

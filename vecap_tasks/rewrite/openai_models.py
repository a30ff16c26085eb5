"""VLM and LLM behind an OpenAI-compatible address: images as data URLs, prompts in the template of the server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from vecap_tasks.config import ModelConfig, ServerConfig
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.rewrite.accepted_rows import DECODERS, ImageInput
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
from vecap_tasks.rewrite.prompt import Prompt, Texts, clean


class ServedVlm:
    """A served vision-language model with the prompt it is asked."""

    decoders = DECODERS

    def __init__(self, settings: ModelConfig, prompt: Prompt) -> None:
        self._prompt = prompt
        self._client = Client(settings, _server(settings), self._request(_gray_jpeg(), GREEDY).messages)

    def describe(
        self, asked: Iterator[tuple[ImageInput, Sampling]], finished: OnFinished = ignore_finished
    ) -> list[GeneratedText]:
        """Say what each picture shows; the problem is `unreadable_image` where there is none.

        *finished* is told of each answer.
        """
        return self._client.ask(self._requests(asked), finished)

    def _requests(self, asked: Iterator[tuple[ImageInput, Sampling]]) -> Iterator[Request | GeneratedText]:
        for seen, draw in asked:
            if seen.image is None:
                yield failed("unreadable_image")
                continue
            yield self._request(seen.jpeg, draw)

    def _request(self, jpeg: bytes, draw: Sampling) -> Request:
        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        return _request(
            [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self._prompt.text}], draw
        )


class ServedLlm:
    """A served language model with the prompt it is asked."""

    def __init__(self, settings: ModelConfig, prompt: Prompt, max_alttext_chars: int) -> None:
        self._prompt = prompt
        self._limit = max_alttext_chars
        test = self._request(("A cat", "a cat"), GREEDY, max_alttext_chars).messages
        self._client = Client(settings, _server(settings), test)

    def fuse(
        self, asked: Sequence[tuple[Texts, Sampling]], finished: OnFinished = ignore_finished
    ) -> list[GeneratedText]:
        """Write a text about each (AltText, VeC), the AltText halved as long as the server finds it too long.

        *finished* is told of each answer.
        """
        written: dict[int, GeneratedText] = {}
        limit = self._limit
        left = list(range(len(asked)))
        while left:
            places = tuple(left)

            def answered(batch: Mapping[int, GeneratedText], places: tuple[int, ...] = places) -> None:
                finished({places[number]: text for number, text in batch.items()})

            answers = self._client.ask(iter([self._request(*asked[place], limit) for place in left]), answered)
            written |= zip(left, answers, strict=True)
            too_long = [place for place in left if written[place].problem == Fault.PROMPT_TOO_LONG]
            left = [place for place in too_long if limit and len(asked[place][0][0]) > limit // 2]
            limit //= 2
        return [written[place] for place in range(len(asked))]

    def _request(self, texts: Texts, draw: Sampling, limit: int) -> Request:
        # Which tokens are special only the server knows; the markers of the formats in use are taken out.
        alttext, vec = clean(texts[0], (), limit), clean(texts[1], (), self._limit)
        return _request(self._prompt.fill(alttext=alttext, vec=vec), draw)


def describe_server(settings: ModelConfig) -> dict[str, Any]:
    """Return what is known of a served model: its name, the revision stated, and what its addresses say of it."""
    server = _server(settings)
    try:
        said: list[dict[str, Any]] = Client(settings, server).models()
    except VecapError as error:
        said = [{"error": str(error)}]
    return {"model": settings.model, "revision": server.revision, "addresses": said}


def _server(settings: ModelConfig) -> ServerConfig:
    if settings.server is None:
        raise PermanentError(f"model {settings.model} has no server; give its addresses in `server.urls`")
    return settings.server


def _gray_jpeg() -> bytes:
    """Return a picture that no server can object to, 224 pixels wide and high."""
    stream = io.BytesIO()
    Image.new("RGB", (224, 224), "gray").save(stream, "JPEG")
    return stream.getvalue()


def _request(content: str | list[dict[str, Any]], draw: Sampling) -> Request:
    return Request([{"role": "user", "content": content}], draw.temperature, draw.seed)

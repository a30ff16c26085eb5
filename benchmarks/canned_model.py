"""The stage that captions, with models that answer at once what the real ones said: what it costs is the engine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import pyarrow.parquet as pq

from vecap_tasks.rewrite.accepted_rows import ImageInput
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling
from vecap_tasks.rewrite.prompt import Prompt, Texts
from vecap_tasks.rewrite.stage import Rewrite

T = TypeVar("T")


class Canned(Rewrite):
    """Says of an image what shard 00000, which the models did, has of it."""

    @cached_property
    def _said(self) -> tuple[Mapping[str, str], Mapping[Texts, str]]:
        with self.store.open(f"{self.folder}/00000.parquet") as stream:
            rows = pq.read_table(stream, columns=["sha256", "alttext", "vec", "vecap"]).to_pylist()
        vec = {row["sha256"]: row["vec"] or "" for row in rows}
        return vec, {(row["alttext"], row["vec"]): row["vecap"] or "" for row in rows}

    def _vlm(self) -> _Vlm:
        return _Vlm(self._said[0], self._settings["vlm"].batch_size)

    def _llm(self, prompt: Prompt) -> _Llm:
        return _Llm(self._said[1], self._settings["llm"].batch_size)


class _Vlm:
    decode_threads = 1

    def __init__(self, said: Mapping[str, str], size: int) -> None:
        self._said, self._size = said, size

    def describe(self, asked: Iterator[tuple[ImageInput, Sampling]], finished: OnFinished) -> list[GeneratedText]:
        return _answers(asked, self._size, lambda seen: self._said[seen.row.sha256], finished)


class _Llm:
    def __init__(self, said: Mapping[Texts, str], size: int) -> None:
        self._said, self._size = said, size

    def fuse(self, asked: Sequence[tuple[Texts, Sampling]], finished: OnFinished) -> list[GeneratedText]:
        return _answers(iter(asked), self._size, lambda texts: self._said[texts], finished)


def _answers(
    asked: Iterator[tuple[T, Sampling]], size: int, say: Callable[[T], str], finished: OnFinished
) -> list[GeneratedText]:
    made: list[GeneratedText] = []
    for one, _ in asked:
        text = say(one)
        made.append(GeneratedText(text, len(text.split()), True, 20))
        if len(made) % size == 0:
            finished(dict(enumerate(made[-size:], start=len(made) - size)))
    return made

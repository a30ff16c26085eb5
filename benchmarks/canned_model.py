"""The captioning stage with models that return recorded captions instantly, to measure the engine's own cost."""

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
    """Returns the captions that the real models wrote for shard 00000."""

    @cached_property
    def _recorded(self) -> tuple[Mapping[str, str], Mapping[Texts, str]]:
        with self.store.open(f"{self.folder}/00000.parquet") as stream:
            rows = pq.read_table(stream, columns=["sha256", "alttext", "vec", "vecap"]).to_pylist()
        vec = {row["sha256"]: row["vec"] or "" for row in rows}
        return vec, {(row["alttext"], row["vec"]): row["vecap"] or "" for row in rows}

    def _vlm(self) -> _Vlm:
        return _Vlm(self._recorded[0], self._settings["vlm"].batch_size)

    def _llm(self, prompt: Prompt) -> _Llm:
        return _Llm(self._recorded[1], self._settings["llm"].batch_size)


class _Vlm:
    decode_threads = 1

    def __init__(self, recorded: Mapping[str, str], size: int) -> None:
        self._recorded, self._size = recorded, size

    def describe(self, requests: Iterator[tuple[ImageInput, Sampling]], finished: OnFinished) -> list[GeneratedText]:
        return _generate(requests, self._size, lambda image: self._recorded[image.row.sha256], finished)


class _Llm:
    def __init__(self, recorded: Mapping[Texts, str], size: int) -> None:
        self._recorded, self._size = recorded, size

    def fuse(self, requests: Sequence[tuple[Texts, Sampling]], finished: OnFinished) -> list[GeneratedText]:
        return _generate(iter(requests), self._size, lambda texts: self._recorded[texts], finished)


def _generate(
    requests: Iterator[tuple[T, Sampling]], size: int, answer: Callable[[T], str], finished: OnFinished
) -> list[GeneratedText]:
    results: list[GeneratedText] = []
    for item, _ in requests:
        text = answer(item)
        results.append(GeneratedText(text, len(text.split()), True, 20))
        if len(results) % size == 0:
            finished(dict(enumerate(results[-size:], start=len(results) - size)))
    return results

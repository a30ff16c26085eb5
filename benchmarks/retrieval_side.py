"""One side of `benchmarks.retrieval`: `retrieval_side.py ours|theirs FEATURES`; prints one JSON object."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

_BATCH = 64  # CLIP_benchmark's default
Figures = list[float]


def ours(images: torch.Tensor, texts: torch.Tensor, owners: list[int]) -> Callable[[], Figures]:
    from vecap_tasks.evaluate.retrieval import image_to_text_hits, text_to_image_hits

    def work() -> Figures:
        ways = (image_to_text_hits(images, texts, owners), text_to_image_hits(images, texts, owners))
        return [float(value) for found in ways for value in found.mean(axis=0)]

    return work


def theirs(images: torch.Tensor, texts: torch.Tensor, owners: list[int]) -> Callable[[], Figures]:
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    of_image: list[list[int]] = [[] for _ in images]
    for text, owner in enumerate(owners):
        of_image[owner].append(text)

    class Model:
        """Hands out the features: an image is its own feature, a token the number of a caption."""

        def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
            return batch

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return texts[tokens]

    def loader() -> Iterator[tuple[torch.Tensor, list[list[int]]]]:
        for start in range(0, len(images), _BATCH):
            yield images[start : start + _BATCH], of_image[start : start + _BATCH]

    def work() -> Figures:
        found = evaluate(Model(), loader(), torch.tensor, "cpu", amp=False, recall_k_list=[1, 5, 10])
        return [found[f"{way}_retrieval_recall@{k}"] for way in ("text", "image") for k in (1, 5, 10)]

    return work


def main(way: str, file: str) -> None:
    given = np.load(file)
    images, texts = torch.from_numpy(given["images"]), torch.from_numpy(given["texts"])
    work = {"ours": ours, "theirs": theirs}[way](images, texts, given["owners"].tolist())
    start = time.perf_counter()
    figures = work()
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"figures": figures, "seconds": seconds, "memory": memory}))


if __name__ == "__main__":
    main(*sys.argv[1:])

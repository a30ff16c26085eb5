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
        directions = (image_to_text_hits(images, texts, owners), text_to_image_hits(images, texts, owners))
        return [float(value) for hits in directions for value in hits.mean(axis=0)]

    return work


def theirs(images: torch.Tensor, texts: torch.Tensor, owners: list[int]) -> Callable[[], Figures]:
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    captions_of: list[list[int]] = [[] for _ in images]
    for text, owner in enumerate(owners):
        captions_of[owner].append(text)

    class Model:
        """Returns the features: the input of an image is its feature, a token is the index of a caption."""

        def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
            return batch

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return texts[tokens]

    def loader() -> Iterator[tuple[torch.Tensor, list[list[int]]]]:
        for start in range(0, len(images), _BATCH):
            yield images[start : start + _BATCH], captions_of[start : start + _BATCH]

    def work() -> Figures:
        recalls = evaluate(Model(), loader(), torch.tensor, "cpu", amp=False, recall_k_list=[1, 5, 10])
        return [recalls[f"{direction}_retrieval_recall@{k}"] for direction in ("text", "image") for k in (1, 5, 10)]

    return work


def main(side: str, file: str) -> None:
    features = np.load(file)
    images, texts = torch.from_numpy(features["images"]), torch.from_numpy(features["texts"])
    work = {"ours": ours, "theirs": theirs}[side](images, texts, features["owners"].tolist())
    start = time.perf_counter()
    figures = work()
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"figures": figures, "seconds": seconds, "memory": memory}))


if __name__ == "__main__":
    main(*sys.argv[1:])

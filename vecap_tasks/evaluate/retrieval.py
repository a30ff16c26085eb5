"""Retrieval between images and captions, a block of queries at a time, with a rule for ties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vecap_tasks.config import Ties

KS = (1, 5, 10)
BLOCK = 4_000_000  # similarities held at once: 16 MB of float32


def is_hit(similar: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, ties: Ties) -> torch.Tensor:
    """Return bool [n, 3]: whether one of a query's right answers is among the first 1, 5 and 10.

    *similar* [n, m] float32, on the CPU, has a row a query; the cells (*rows*, *columns*), int64 [r], are the right
    answers, at least one a row.
    """
    if ties == "clip_benchmark":
        right = _mask(similar, rows, columns)
        most = similar.shape[1]
        tops = [similar.topk(min(k, most), dim=1).indices for k in KS]
        return torch.stack([right.gather(1, top).any(dim=1) for top in tops], dim=1)
    if ties == "open_clip":
        order = torch.argsort(similar, descending=True)
        ranks = _mask(similar, rows, columns).gather(1, order).byte().argmax(dim=1)
    else:
        own = similar[rows, columns]
        best = similar.new_full((len(similar),), float("-inf")).scatter_reduce_(0, rows, own, "amax")
        # NumPy counts a matrix of truth values many times as fast as torch sums it.
        before = torch.from_numpy(np.count_nonzero(similar.numpy() >= best[:, None].numpy(), axis=1))
        ranks = before.index_add_(0, rows, -(own >= best[rows]).to(before.dtype))
    return ranks[:, None] < torch.tensor(KS)


def _mask(similar: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    right = torch.zeros_like(similar, dtype=torch.bool)
    right[rows, columns] = True
    return right


def image_to_text_hits(
    images: torch.Tensor, texts: torch.Tensor, caption_of: Sequence[int], ties: Ties = "pessimistic"
) -> NDArray[np.bool_]:
    """Return for each image, [n, 3], whether one of its captions is among the 1, 5 and 10 most similar.

    *images* [n, d] and *texts* [m, d] are float32 of length 1; *caption_of* has each caption's image, every image
    has one.
    """
    owners = torch.tensor(caption_of)
    order = torch.argsort(owners, stable=True)
    bounds = torch.searchsorted(owners[order].contiguous(), torch.arange(len(images) + 1))
    made = []
    size = max(1, BLOCK // len(texts))
    for start in range(0, len(images), size):
        end = min(start + size, len(images))
        columns = order[bounds[start] : bounds[end]]
        made.append(is_hit(images[start:end] @ texts.T, owners[columns] - start, columns, ties))
    return torch.cat(made).numpy()


def text_to_image_hits(
    images: torch.Tensor, texts: torch.Tensor, caption_of: Sequence[int], ties: Ties = "pessimistic"
) -> NDArray[np.bool_]:
    """Return bool [m, 3]: for each caption, is its image in the top 1, 5 and 10? Arguments as `image_to_text_hits`."""
    owners = torch.tensor(caption_of)
    made = []
    for block in torch.arange(len(texts)).split(max(1, BLOCK // len(images))):
        made.append(is_hit(texts[block] @ images.T, torch.arange(len(block)), owners[block], ties))
    return torch.cat(made).numpy()

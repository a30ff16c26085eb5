"""Recall@k of image-text retrieval, computed in blocks of queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vecap_tasks.config import Ties

KS = (1, 5, 10)
BLOCK = 4_000_000  # similarities in memory at a time: 16 MB of float32


def is_hit(similar: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, ties: Ties) -> torch.Tensor:
    """Return bool [n, 3]: whether a correct answer of a query is in the top 1, 5 and 10.

    *similar* [n, m] float32, on the CPU, has one row per query. The cells (*rows*, *columns*), int64 [r], are the
    correct answers, at least one per row.
    """
    if ties == "clip_benchmark":
        correct = _mask(similar, rows, columns)
        count = similar.shape[1]
        tops = [similar.topk(min(k, count), dim=1).indices for k in KS]
        return torch.stack([correct.gather(1, top).any(dim=1) for top in tops], dim=1)
    if ties == "open_clip":
        order = torch.argsort(similar, descending=True)
        ranks = _mask(similar, rows, columns).gather(1, order).byte().argmax(dim=1)
    else:
        own = similar[rows, columns]
        best = similar.new_full((len(similar),), float("-inf")).scatter_reduce_(0, rows, own, "amax")
        # np.count_nonzero is many times faster than torch.sum on a boolean matrix.
        not_below = torch.from_numpy(np.count_nonzero(similar.numpy() >= best[:, None].numpy(), axis=1))
        ranks = not_below.index_add_(0, rows, -(own >= best[rows]).to(not_below.dtype))
    return ranks[:, None] < torch.tensor(KS)


def _mask(similar: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(similar, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def image_to_text_hits(
    images: torch.Tensor, texts: torch.Tensor, caption_of: Sequence[int], ties: Ties = "pessimistic"
) -> NDArray[np.bool_]:
    """Return bool [n, 3]: for each image, whether one of its captions is in the top 1, 5 and 10.

    *images* [n, d] and *texts* [m, d] are float32 and L2-normalized. *caption_of* has the image index of each caption;
    each image has at least one caption.
    """
    owners = torch.tensor(caption_of)
    order = torch.argsort(owners, stable=True)
    bounds = torch.searchsorted(owners[order].contiguous(), torch.arange(len(images) + 1))
    hits = []
    size = max(1, BLOCK // len(texts))
    for start in range(0, len(images), size):
        end = min(start + size, len(images))
        columns = order[bounds[start] : bounds[end]]
        hits.append(is_hit(images[start:end] @ texts.T, owners[columns] - start, columns, ties))
    return torch.cat(hits).numpy()


def text_to_image_hits(
    images: torch.Tensor, texts: torch.Tensor, caption_of: Sequence[int], ties: Ties = "pessimistic"
) -> NDArray[np.bool_]:
    """Return bool [m, 3]: for each caption, whether its image is in the top 1, 5 and 10.

    The arguments are those of `image_to_text_hits`.
    """
    owners = torch.tensor(caption_of)
    hits = []
    for block in torch.arange(len(texts)).split(max(1, BLOCK // len(images))):
        hits.append(is_hit(texts[block] @ images.T, torch.arange(len(block)), owners[block], ties))
    return torch.cat(hits).numpy()

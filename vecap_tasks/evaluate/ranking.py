"""Whether a right answer is among the first k of a query, and what becomes of ties.

`against` counts everything that is as similar as the right answer before it: a model that gives all the same feature
scores nothing. The other two put ties in the very order of the tool that they are named after, which is nobody's
choice: CLIP_benchmark takes `torch.topk`, open_clip's training `torch.argsort`, and neither is stable.
"""

from __future__ import annotations

import numpy as np
import torch

from vecap_tasks.config import Ties

KS = (1, 5, 10)


def found(similar: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, ties: Ties) -> torch.Tensor:
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

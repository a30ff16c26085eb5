"""Zero-shot classification by similarity to class prompts.

The feature of a class is the normalized mean of the normalized text features of its prompts (Radford et al., 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vecap_tasks.config import Ties
from vecap_tasks.evaluate.retrieval import BLOCK, is_hit


def class_sentences(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return the prompts of all classes in all templates, class by class."""
    return [template.replace("{}", name) for name in classes for template in templates]


def class_features(sentences: torch.Tensor, classes: int) -> torch.Tensor:
    """Return [classes, d] from the features [classes * templates, d] of `class_sentences`."""
    return F.normalize(sentences.view(classes, -1, sentences.shape[-1]).mean(dim=1), dim=-1)


def zero_shot_hits(
    images: torch.Tensor, classes: torch.Tensor, labels: Sequence[int], ties: Ties = "pessimistic"
) -> NDArray[np.bool_]:
    """Return bool [n, 3] for *images* [n, d] and *classes* [c, d]: label in the top 1, in the top 5, and predicted.

    The last column is for mean per-class recall. It differs from the first only for ties in CLIP_benchmark and
    open_clip, which use `topk` for accuracy and `argmax` for recall.
    """
    correct = torch.tensor(labels)
    hits = []
    for block in torch.arange(len(images)).split(max(1, BLOCK // len(classes))):
        similar, own = images[block] @ classes.T, correct[block]
        if ties == "pessimistic":
            first, five, _ = is_hit(similar, torch.arange(len(block)), own, ties).unbind(dim=1)
            predicted = first
        else:
            top = similar.topk(min(5, len(classes)), dim=1).indices == own[:, None]
            first, five, predicted = top[:, 0], top.any(dim=1), similar.argmax(dim=1) == own
        hits.append(torch.stack([first, five, predicted], dim=1))
    return torch.cat(hits).numpy()

"""Zero-shot classification: an image's class is the one whose name, in sentences, is most similar to it.

A class's feature is the mean over the templates of the normalized text features, normalized again (Radford et al.,
2021).
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
    """Return every class in every template, class by class."""
    return [template.replace("{}", name) for name in classes for template in templates]


def class_features(sentences: torch.Tensor, classes: int) -> torch.Tensor:
    """Return [classes, d] from the features [classes * templates, d] of `class_sentences`."""
    return F.normalize(sentences.view(classes, -1, sentences.shape[-1]).mean(dim=1), dim=-1)


def zero_shot_hits(
    images: torch.Tensor, classes: torch.Tensor, labels: Sequence[int], ties: Ties = "pessimistic"
) -> NDArray[np.bool_]:
    """Return for each of *images* [n, d], bool [n, 3]: its class is the first, is among the first 5, is the one chosen.

    *classes* is [c, d]. The last is what mean per class recall counts. It differs from the first only where ties are
    put as by CLIP_benchmark, which takes `topk` for accuracy and `argmax` for recall; so does open_clip.
    """
    right = torch.tensor(labels)
    made = []
    for block in torch.arange(len(images)).split(max(1, BLOCK // len(classes))):
        similar, own = images[block] @ classes.T, right[block]
        if ties == "pessimistic":
            first, five, _ = is_hit(similar, torch.arange(len(block)), own, ties).unbind(dim=1)
            chosen = first
        else:
            top = similar.topk(min(5, len(classes)), dim=1).indices == own[:, None]
            first, five, chosen = top[:, 0], top.any(dim=1), similar.argmax(dim=1) == own
        made.append(torch.stack([first, five, chosen], dim=1))
    return torch.cat(made).numpy()

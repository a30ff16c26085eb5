"""Answers of a model to choices of captions (SugarCrepe, ARO) and to pairs (Winoground)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vecap_tasks.config import Ties
from vecap_tasks.evaluate.sets import ChoiceSet

_BLOCK = 4096  # questions whose features are in memory at a time


def choice_hits(images: torch.Tensor, texts: torch.Tensor, choices: ChoiceSet, ties: Ties) -> NDArray[np.bool_]:
    """Return bool [questions]: whether the right caption of each question is the most similar one.

    *images* [n, d] and *texts* [m, d] are the L2-normalized features of the set's images and captions. With
    `pessimistic`, the right caption must be above the others; the tools take the first of equal ones, which it is.
    """
    hits = []
    for start in range(0, len(choices.questions), _BLOCK):
        for question in choices.questions[start : start + _BLOCK]:
            similar = texts[list(question.captions)] @ images[question.images[0]]
            right, best = similar[0], similar[1:].max()
            hits.append(bool(right > best if ties == "pessimistic" else right >= best))
    return np.array(hits)


def pair_hits(
    images: torch.Tensor, texts: torch.Tensor, choices: ChoiceSet, ties: Ties = "pessimistic"
) -> NDArray[np.bool_]:
    """Return bool [questions, 3]: Winoground's text, image and group score (Thrush et al., 2022).

    The arguments are those of `choice_hits`; each question has two images and two captions. Ties do not count, as the
    authors define it; CLIP_benchmark takes the first of equal ones, which is right for the first image and caption.
    """
    first, second = (torch.tensor([question.images[k] for question in choices.questions]) for k in (0, 1))
    one, two = (torch.tensor([question.captions[k] for question in choices.questions]) for k in (0, 1))

    def similar(image: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
        return (images[image] * texts[caption]).sum(dim=1)

    right, other = (similar(first, one), similar(second, two)), (similar(first, two), similar(second, one))
    above = torch.gt if ties == "pessimistic" else torch.ge
    text = above(right[0], other[0]) & (right[1] > other[1])
    image = above(right[0], other[1]) & (right[1] > other[0])
    return torch.stack([text, image, text & image], dim=1).numpy()

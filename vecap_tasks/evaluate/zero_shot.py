"""Zero-shot classification: an image's class is the one whose name, in sentences, is most similar to it.

A class's feature is the mean over the templates of the normalised text features, normalised again (Radford et al.,
2021). An image as similar to another class as to its own counts as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def class_sentences(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return every class in every template, class by class."""
    return [template.replace("{}", name) for name in classes for template in templates]


def class_features(sentences: torch.Tensor, classes: int) -> torch.Tensor:
    """Return [classes, d] from the features [classes * templates, d] of `class_sentences`."""
    return F.normalize(sentences.view(classes, -1, sentences.shape[-1]).mean(dim=1), dim=-1)


def top1(images: torch.Tensor, classes: torch.Tensor, labels: Sequence[int]) -> float:
    """Return the share of *images* [n, d] whose most similar row of *classes* [c, d] is their label's."""
    similar = images @ classes.T
    own = torch.tensor(labels)[:, None]
    others = similar.scatter(1, own, float("-inf")).amax(dim=1, keepdim=True)
    return float((similar.gather(1, own) > others).double().mean())

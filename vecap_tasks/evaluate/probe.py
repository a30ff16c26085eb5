"""Linear probe: multinomial logistic regression on the image features of a model."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vecap_tasks.evaluate.sets import ProbeSet

log = logging.getLogger(__name__)

_STRENGTHS = tuple(10.0**power for power in range(-2, 6))  # inverse strengths of the L2 penalty that are tried
_ITERATIONS = 1000  # of L-BFGS, as in CLIP (Radford et al., 2021)
_VALIDATION = 5  # one training image in so many chooses the strength


def probe_hits(features: torch.Tensor, probe: ProbeSet) -> NDArray[np.bool_]:
    """Return bool [tested images, 3]: class in the top 1, in the top 5, and predicted.

    *features* [n, d] are the L2-normalized image features of the set. As in CLIP (Radford et al., 2021), the penalty is
    chosen on a part of the training images, and the regression then trained on all of them.
    """
    values, labels = features.numpy(), np.array(probe.labels)
    train, train_labels = values[: probe.train], labels[: probe.train]
    held_out = np.random.default_rng(0).permutation(probe.train) % _VALIDATION == 0
    missing = set(train_labels.tolist()) - set(train_labels[~held_out].tolist())
    held_out &= ~np.isin(train_labels, list(missing))  # every class must be trained
    scores = [
        _fit(train[~held_out], train_labels[~held_out], strength).score(train[held_out], train_labels[held_out])
        if held_out.any()
        else 0.0
        for strength in _STRENGTHS
    ]
    strength = _STRENGTHS[int(np.argmax(scores))]
    log.info("linear probe %s: C %g", probe.name, strength)
    model = _fit(train, train_labels, strength)
    tested = labels[probe.train :]
    order = np.argsort(-model.predict_proba(values[probe.train :]), axis=1, kind="stable")[:, :5]
    right = model.classes_[order] == tested[:, None]
    return np.stack([right[:, 0], right.any(axis=1), right[:, 0]], axis=1)


def _fit(features: NDArray[np.float32], labels: NDArray[np.int64], strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the iterations, which are limited on purpose
        return LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(features, labels)

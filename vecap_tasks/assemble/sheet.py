"""The sample sheet: the first samples of a version as a picture, each with its texts, for people to look at.

Training shards are in an order that mixes the crawl, so the first samples are a fair draw and nobody's choice.
"""

from __future__ import annotations

import io
import json
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.tar import read_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLES = 8
_COLUMNS = 2
_INCHES = (7.0, 1.6)  # of one sample
_WIDTH = 52  # characters of a line
_LINES = 3  # of a text
_TEXTS = (("alttext", "AltText", "#8a5a00"), ("vec", "VeC", "#1f5fa8"), ("vecap", "VeCap", "#1b7837"))
_REWRITTEN = ("alttext_rewritten", "Rewritten", "#7b3294")  # where a version has it
_TALLER = 1.3  # times, for that one more text


def write_sheet(store: Store, tar: str, path: Path) -> None:
    """Draw the first samples of the training shard *tar* into the PNG *path*. Raises DamagedError for a broken tar."""
    # The figure is used without pyplot: nothing here may depend on a display or on a backend's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with store.local(tar) as local, local.open("rb") as stream:
        samples = list(islice(read_samples(stream, tar), SAMPLES))
    texts = [json.loads(sample.members["json"]) for sample in samples]
    rewritten = any(values.get(_REWRITTEN[0]) for values in texts)
    shown, height = ((*_TEXTS, _REWRITTEN), _TALLER) if rewritten else (_TEXTS, 1.0)
    rows = -(-len(samples) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _INCHES[0], rows * _INCHES[1] * height), dpi=100)
    FigureCanvasAgg(figure)
    for number, (sample, values) in enumerate(zip(samples, texts, strict=True)):
        left = (number % _COLUMNS) / _COLUMNS
        bottom = 1 - (number // _COLUMNS + 1) / rows
        picture = figure.add_axes((left + 0.005, bottom + 0.05 / rows, 0.105, 0.9 / rows))
        picture.set_axis_off()
        picture.imshow(Image.open(io.BytesIO(sample.members["jpg"])).convert("RGB"))
        words = figure.add_axes((left + 0.12, bottom, 0.5 - 0.12, 1 / rows))
        words.set_axis_off()
        words.set_ylim(1 - height, 1)
        _write_texts(words, values, shown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a script that no font of this machine has shows as boxes
        figure.savefig(path, format="png", metadata={"Software": None})


def _write_texts(axes: Axes, values: Mapping[str, Any], shown: Sequence[tuple[str, str, str]]) -> None:
    top = 0.94
    for name, title, colour in shown:
        text = str(values[name])
        lines = textwrap.wrap(text, _WIDTH, max_lines=_LINES, placeholder=" …") or ["—"]
        # Text from the web is shown as it is: no mathematics, no markup.
        axes.text(0, top, title, color=colour, fontsize=10, fontweight="bold", va="top", parse_math=False)
        axes.text(0.13, top, "\n".join(lines), fontsize=10, va="top", parse_math=False)
        top -= 0.07 + 0.14 * len(lines)

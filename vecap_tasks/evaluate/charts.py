"""Pictures of results, as PNG that depends on the results alone: no time or version enters it."""

from __future__ import annotations

import hashlib
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vecap_tasks.evaluate.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vecap_tasks.evaluate.features import Features
    from vecap_tasks.evaluate.sets import ImageFile, RetrievalSet

_QUERIES = 6
_SHOWN = 5
_RIGHT, _WRONG = "#1b7837", "#bbbbbb"


def plot_arms(results: Results, path: Path) -> None:
    """Write a bar chart of the arms, recall@1 both ways and zero-shot top-1 of every set, with their intervals."""
    shown = results.main
    figure = Figure(figsize=(max(8.0, 2.4 * len(shown)), 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / max(1, len(results.arms))
    for place, arm in enumerate(results.arms):
        heights = [100 * arm.mean[key] for key in shown]
        ends = [arm.intervals[key] for key in shown]
        # A mean outside its percentile interval is possible; a bar of negative length is not.
        below = [max(0.0, height - 100 * low) for height, (low, _) in zip(heights, ends, strict=True)]
        above = [max(0.0, 100 * high - height) for height, (_, high) in zip(heights, ends, strict=True)]
        where = [group + (place - (len(results.arms) - 1) / 2) * width for group in range(len(shown))]
        axes.bar(where, heights, width, yerr=[below, above], capsize=3, label=arm.arm)
    for group, key in enumerate(shown):
        level = 100 * results.chance[key]
        axes.hlines(level, group - 0.45, group + 0.45, colors="black", linestyles="dotted", linewidth=1)
    axes.set_xticks(range(len(shown)), [results.title(key) for key in shown])
    axes.set_ylabel(f"percent, {100 * results.confidence:g} % intervals (dotted: chance)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="arm", frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def plot_retrieved(given: RetrievalSet, features: Features, path: Path) -> None:
    """Write a sheet of what a model retrieves: a few captions, each with its own image and the most similar ones.

    The captions are those whose text has the smallest sha256, one an image: nobody's choice, and the same for every
    model. The right image has a green frame.
    """
    queries = choose_queries(given)
    count = min(_SHOWN, len(given.images))
    figure = Figure(figsize=(1.35 * (count + 1) + 2.6, 1.4 * len(queries) + 0.3), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(queries), count + 2, width_ratios=[2.0] + [1.0] * (count + 1), left=0.01, right=0.99, top=0.93, bottom=0.01,
        wspace=0.06, hspace=0.06,
    )  # fmt: skip
    for row, query in enumerate(queries):
        similar = features.images @ features.captions[query]
        best = similar.argsort(descending=True, stable=True)[:count].tolist()
        own = given.caption_of[query]
        words = figure.add_subplot(grid[row, 0])
        words.set_axis_off()
        text = "\n".join(textwrap.wrap(given.captions[query], 26, max_lines=6, placeholder=" …"))
        words.text(0, 0.5, text, fontsize=9, va="center", parse_math=False)
        _show(figure.add_subplot(grid[row, 1]), given.images[own], None, "its own" if row == 0 else "")
        for place, image in enumerate(best):
            color = _RIGHT if image == own else _WRONG
            title = f"{place + 1}" if row == 0 else ""
            _show(figure.add_subplot(grid[row, place + 2]), given.images[image], color, title)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a script that no font of this machine has shows as boxes
        figure.savefig(path, format="png", metadata={"Software": None})


def choose_queries(given: RetrievalSet) -> list[int]:
    """Return the numbers of the captions that the sheet shows."""
    order = sorted(range(len(given.captions)), key=lambda n: hashlib.sha256(given.captions[n].encode()).digest())
    first = {given.caption_of[number]: number for number in reversed(order)}
    chosen = set(first.values())
    return [number for number in order if number in chosen][:_QUERIES]


def _show(axes: Axes, picture: ImageFile, frame: str | None, title: str) -> None:
    image = picture.load()
    image.thumbnail((256, 256))
    axes.imshow(image)
    axes.set_title(title, fontsize=9, pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(frame is not None)
        spine.set_color(frame or "none")
        spine.set_linewidth(4 if frame == _RIGHT else 1)

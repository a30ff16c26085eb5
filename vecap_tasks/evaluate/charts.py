"""Charts of results as PNG, without timestamps or versions: equal results produce equal bytes."""

from __future__ import annotations

import hashlib
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vecap_tasks.core.private_data import hide
from vecap_tasks.evaluate.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vecap_tasks.evaluate.features import Features
    from vecap_tasks.evaluate.sets import ImageFile, RetrievalSet

_NUM_QUERIES = 6
_NUM_RETRIEVED = 5
_CORRECT_COLOR, _WRONG_COLOR = "#1b7837", "#bbbbbb"


def plot_arms(results: Results, path: Path) -> None:
    """Write a bar chart of recall@1 in both directions and zero-shot top-1 by arm and set, with intervals."""
    keys = results.main
    figure = Figure(figsize=(max(8.0, 2.4 * len(keys)), 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / max(1, len(results.arms))
    for index, arm in enumerate(results.arms):
        heights = [100 * arm.mean[key] for key in keys]
        bounds = [arm.intervals[key] for key in keys]
        # A mean can lie outside its percentile interval, but error bars must not be negative.
        below = [max(0.0, height - 100 * low) for height, (low, _) in zip(heights, bounds, strict=True)]
        above = [max(0.0, 100 * high - height) for height, (_, high) in zip(heights, bounds, strict=True)]
        positions = [group + (index - (len(results.arms) - 1) / 2) * width for group in range(len(keys))]
        axes.bar(positions, heights, width, yerr=[below, above], capsize=3, label=arm.arm)
    for group, key in enumerate(keys):
        level = 100 * results.chance[key]
        axes.hlines(level, group - 0.45, group + 0.45, colors="black", linestyles="dotted", linewidth=1)
    axes.set_xticks(range(len(keys)), [results.title(key) for key in keys])
    axes.set_ylabel(f"percent, {100 * results.confidence:g} % intervals (dotted: chance)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="arm", frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def plot_retrieved(dataset: RetrievalSet, features: Features, path: Path) -> None:
    """Write a sheet of retrieval examples: a few captions, each with its own image and the most similar ones.

    The captions are those with the smallest sha256, one per image, so they are the same for all models. A notice
    replaces a caption with private data. The correct image has a green frame.
    """
    queries = choose_queries(dataset)
    count = min(_NUM_RETRIEVED, len(dataset.images))
    figure = Figure(figsize=(1.35 * (count + 1) + 2.6, 1.4 * len(queries) + 0.3), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(queries), count + 2, width_ratios=[2.0] + [1.0] * (count + 1), left=0.01, right=0.99, top=0.93, bottom=0.01,
        wspace=0.06, hspace=0.06,
    )  # fmt: skip
    for row, query in enumerate(queries):
        similar = features.images @ features.captions[query]
        best = similar.argsort(descending=True, stable=True)[:count].tolist()
        own = dataset.caption_of[query]
        caption = figure.add_subplot(grid[row, 0])
        caption.set_axis_off()
        text = "\n".join(textwrap.wrap(hide(dataset.captions[query]) or "", 26, max_lines=6, placeholder=" …"))
        caption.text(0, 0.5, text, fontsize=9, va="center", parse_math=False)
        _draw_image(figure.add_subplot(grid[row, 1]), dataset.images[own], None, "its own" if row == 0 else "")
        for rank, image in enumerate(best):
            color = _CORRECT_COLOR if image == own else _WRONG_COLOR
            title = f"{rank + 1}" if row == 0 else ""
            _draw_image(figure.add_subplot(grid[row, rank + 2]), dataset.images[image], color, title)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs missing from the local fonts
        figure.savefig(path, format="png", metadata={"Software": None})


def choose_queries(dataset: RetrievalSet) -> list[int]:
    """Return the indices of the captions on the sheet."""
    order = sorted(range(len(dataset.captions)), key=lambda n: hashlib.sha256(dataset.captions[n].encode()).digest())
    first = {dataset.caption_of[caption]: caption for caption in reversed(order)}
    chosen = set(first.values())
    return [caption for caption in order if caption in chosen][:_NUM_QUERIES]


def _draw_image(axes: Axes, file: ImageFile, frame: str | None, title: str) -> None:
    image = file.load()
    image.thumbnail((256, 256))
    axes.imshow(image)
    axes.set_title(title, fontsize=9, pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(frame is not None)
        spine.set_color(frame or "none")
        spine.set_linewidth(4 if frame == _CORRECT_COLOR else 1)

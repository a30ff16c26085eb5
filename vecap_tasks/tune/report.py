"""Results of `vecap tune`: the metrics over the share of AltText for each caption, and the recommended mix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from vecap_tasks.config import Config, TuneConfig
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.verify import read_file
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.bootstrap import arm_rounds, difference, interval, resample
from vecap_tasks.evaluate.metrics import FILE, read_answers
from vecap_tasks.evaluate.results import read_results
from vecap_tasks.tune.plan import mixes


@dataclass(frozen=True, slots=True)
class Point:
    """The results of one mix: the main metrics by key, from 0 to 1, and `score`, their mean.

    Intervals are [low, high] over images and seeds. `behind` is how far its score is below that of the best mix, by
    paired bootstrap, with its interval.
    """

    arm: str
    caption: str
    alttext_share: float
    figures: dict[str, float]
    intervals: dict[str, list[float]]
    score: float
    score_interval: list[float]
    behind: list[float]

    @property
    def is_close(self) -> bool:
        """Whether the mix is not significantly worse than the best one."""
        return self.behind[1] <= 0

    @property
    def texts(self) -> str:
        """Its texts with their weights, as in the configuration."""
        return f"{{alttext: {self.alttext_share:g}, {self.caption}: {round(1 - self.alttext_share, 4):g}}}"


@dataclass(frozen=True, slots=True)
class Tuning:
    """The results of all mixes, in order. `best` is the arm with the highest score; `titles` are of the metrics."""

    version: str
    seeds: int
    epochs: int
    titles: dict[str, str]
    points: tuple[Point, ...]
    best: str
    confidence: float
    rounds: int

    @property
    def recommended(self) -> Point:
        return next(point for point in self.points if point.arm == self.best)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def read_tuning(config: Config, settings: TuneConfig, version: Version) -> Tuning:
    """Return the results of the evaluated trainings of *config*, which has the overrides of the tuning.

    Raises VecapError if they are not evaluated.
    """
    stage = load_stage("evaluate", config, version)
    manifest = stage.manifest()
    if manifest is None:
        raise VecapError(f"the trainings of version {version.name} are not evaluated; run the same command again")
    results = read_results(stage.store, manifest)
    keys = results.main
    runs = [
        read_answers(read_file(stage.store, manifest, name), name)
        for name in (f"{run.arm}-{run.seed}/{FILE}" for run in results.runs)
    ]
    columns: dict[str, list[int]] = {}
    for column, run in enumerate(results.runs):
        columns.setdefault(run.arm, []).append(column)
    bootstrap = config.evaluation.bootstrap
    by_metric = resample(runs, bootstrap)
    rounds = np.mean([arm_rounds(by_metric[key], list(columns.values()), bootstrap) for key in keys], axis=0)
    scores = {arm.arm: fmean(arm.mean[key] for key in keys) for arm in results.arms}
    best = max(scores, key=lambda arm: scores[arm])
    first = list(columns).index(best)
    compared = {mix.arm: mix for mix in mixes(settings)}
    points = []
    for column, arm in enumerate(results.arms):
        mix = compared[arm.arm]
        bounds = interval(rounds[:, column], bootstrap.confidence)
        behind = difference(scores[best] - scores[arm.arm], rounds[:, first] - rounds[:, column], bootstrap.confidence)
        points.append(
            Point(
                arm.arm,
                mix.caption,
                mix.share,
                {key: arm.mean[key] for key in keys},
                {key: arm.intervals[key] for key in keys},
                scores[arm.arm],
                [bounds.low, bounds.high],
                [behind.difference, behind.low, behind.high],
            )
        )
    return Tuning(
        version.name,
        len(settings.seeds),
        config.training.epochs,
        {key: results.title(key) for key in keys},
        tuple(points),
        best,
        bootstrap.confidence,
        bootstrap.rounds,
    )


def recommendation(tuning: Tuning) -> str:
    """Return what was found, in sentences, and the setting to use."""
    best = tuning.recommended
    close = [point for point in tuning.points if point.is_close and point.arm != tuning.best]
    others = ", ".join(f"{_share(point)} AltText with {point.caption}" for point in close)
    lines = [
        f"Recommended: {_share(best)} AltText, the rest {best.caption}. Its score, the mean of "
        f"{_join(list(tuning.titles.values()))}, is {_percent(best.score, best.score_interval)}.",
        f"Not significantly worse: {others}." if close else "All other mixes are significantly worse.",
    ]
    return "\n".join([*lines, "", "train:", f"  texts: {{mixed: {best.texts}}}"])


def rows(tuning: Tuning) -> list[list[str]]:
    """Return the header and a row for each mix: percent with intervals."""
    head = ["caption", "AltText", *tuning.titles.values(), "score", "below the best"]
    body = [
        [
            point.caption,
            _share(point),
            *(_percent(point.figures[key], point.intervals[key]) for key in tuning.titles),
            _percent(point.score, point.score_interval),
            "best" if point.arm == tuning.best else _percent(point.behind[0], point.behind[1:]),
        ]
        for point in tuning.points
    ]
    return [head, *body]


def format_markdown(tuning: Tuning) -> str:
    """Return the table and the recommendation as Markdown."""
    head, *body = rows(tuning)
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    text, _, setting = recommendation(tuning).partition("\n\n")
    conditions = (
        f"Percent with {100 * tuning.confidence:g} % intervals over images and seeds; {tuning.seeds} seeds, "
        f"{tuning.epochs} epochs each."
    )
    table = "\n".join(lines)
    return f"# Mixes on {tuning.version}\n\n{conditions}\n\n{table}\n\n{text}\n\n```yaml\n{setting}\n```\n"


def plot(tuning: Tuning, path: Path) -> None:
    """Write the metrics over the share of AltText, one panel each, with intervals; equal results give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = {**tuning.titles, "": "score (mean)"}
    figure = Figure(figsize=(3.4 * len(titles), 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, title) in zip(np.ravel(figure.subplots(1, len(titles))), titles.items(), strict=True):
        for caption in dict.fromkeys(point.caption for point in tuning.points):
            line = [point for point in tuning.points if point.caption == caption or point.alttext_share == 1]
            values = [100 * (point.figures[key] if key else point.score) for point in line]
            bounds = [point.intervals[key] if key else point.score_interval for point in line]
            below = [max(0.0, value - 100 * low) for value, (low, _) in zip(values, bounds, strict=True)]
            above = [max(0.0, 100 * high - value) for value, (_, high) in zip(values, bounds, strict=True)]
            shares = [100 * point.alttext_share for point in line]
            axes.errorbar(shares, values, yerr=[below, above], marker="o", capsize=3, label=caption)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of AltText (%)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"percent, {100 * tuning.confidence:g} % intervals")
    figure.axes[-1].legend(title="caption", frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def _share(point: Point) -> str:
    return f"{100 * point.alttext_share:g} %"


def _percent(value: float, bounds: Sequence[float]) -> str:
    low, high = bounds
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

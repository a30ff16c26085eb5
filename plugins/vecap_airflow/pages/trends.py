"""Charts over versions: acceptance, drift, caption length, cost and recall, with the coordinates of their drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from vecap_airflow.pages.performance import total_cost
from vecap_tasks.core.stage_records import StageSummary

WIDTH, HEIGHT = 300, 170
LEFT, RIGHT, _TOP, _BOTTOM = 42, 8, 12, 24  # margins of the plot
_TICKS = 4
_SHIFT = 6  # between the lines of a chart with intervals
_TEXTS = {"alttext": "AltText", "vec": "VeC", "vecap": "VeCap"}
_DRIFTS = {"hosts": "Hosts", "languages": "Languages", "alttext_chars": "AltText length", "sides": "Image size"}
MAX_SERIES = 4  # the style sheet has as many colors


@dataclass(frozen=True, slots=True)
class Value:
    """A number of one version, with the bounds of its interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class VersionTrends:
    """The numbers of one version that charts show. Shares are in percent, lengths in words."""

    version: str
    accepted: float | None
    drift: dict[str, float] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)
    cost: float | None = None
    recall: dict[str, Value] = field(default_factory=dict)
    recall_title: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: one value per version, None where the version has none."""

    name: str
    values: tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A drawn value: its position, the vertical bounds of its interval if it has one, and its label."""

    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A drawn series: points, and SVG path data that connects those of consecutive versions."""

    name: str
    path: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A labeled position on an axis; `anchor` aligns the label."""

    position: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of `series` over `versions`, and its drawing."""

    id: str
    title: str
    description: str
    unit: str
    versions: tuple[str, ...]
    series: tuple[Series, ...]
    lines: tuple[Line, ...]
    y_ticks: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT

    def label(self, value: Value | None) -> str:
        """Return a value of this chart as text with its unit."""
        return "–" if value is None else _label(value, self.unit)


def version_trends(
    version: str,
    stages: Sequence[StageSummary],
    drift: dict[str, float],
    recall: dict[str, Value],
    recall_title: str,
) -> VersionTrends:
    """Return the numbers of *version* with the committed *stages*."""
    by_name = {stage.stage: stage for stage in stages}
    crawl, quality, assemble = (by_name.get(name) for name in ("crawl", "quality", "assemble"))
    crawled = crawl.counters.get("candidates", 0) if crawl else 0
    words = {}
    for text, title in _TEXTS.items():
        count = assemble.notes.get(f"{text}_texts", 0) if assemble else 0
        if assemble and count:
            words[title] = assemble.notes.get(f"{text}_words", 0) / count
    return VersionTrends(
        version=version,
        accepted=100 * quality.counters.get("accepted", 0) / crawled if quality and crawled else None,
        drift={title: drift[name] for name, title in _DRIFTS.items() if name in drift},
        words=words,
        cost=total_cost(stages),
        recall=recall,
        recall_title=recall_title,
    )


def charts(found: Sequence[VersionTrends]) -> list[Chart]:
    """Return the charts of *found*, the oldest version first, except those with values of fewer than two versions."""
    recall_title = next((trends.recall_title for trends in reversed(found) if trends.recall_title), "Recall")
    drawn = [
        _chart(
            "accepted", "Acceptance share", "Accepted rows of all crawled rows", "%", found,
            {"Accepted": [None if t.accepted is None else Value(t.accepted) for t in found]},
        ),
        _chart(
            "drift", "Drift", "Distance from the versions before, from 0 to 1", "", found,
            _by_name([{name: Value(value) for name, value in t.drift.items()} for t in found]),
        ),
        _chart(
            "words", "Caption length", "Mean words of the texts of the training samples", "words", found,
            _by_name([{name: Value(value) for name, value in t.words.items()} for t in found]),
        ),
        _chart(
            "cost", "Cost", "Cost of captioning, in the currency of the price settings", "cost", found,
            {"Cost": [None if t.cost is None else Value(t.cost) for t in found]},
        ),
        _chart(
            "recall", recall_title, "By arm of the models trained on each version, with intervals", "%", found,
            _by_name([t.recall for t in found]),
        ),
    ]  # fmt: skip
    return [chart for chart in drawn if chart is not None]


def _by_name(values: Sequence[dict[str, Value]]) -> dict[str, list[Value | None]]:
    names = list(dict.fromkeys(name for each in values for name in each))[:MAX_SERIES]
    return {name: [each.get(name) for each in values] for name in names}


def _chart(
    id: str,
    title: str,
    description: str,
    unit: str,
    found: Sequence[VersionTrends],
    values: dict[str, list[Value | None]],
) -> Chart | None:
    series = tuple(Series(name, tuple(each)) for name, each in values.items() if any(each))
    count = max((sum(value is not None for value in each.values) for each in series), default=0)
    if count < 2:
        return None
    versions = tuple(trends.version for trends in found)
    top = _nice(max(bound for each in series for value in each.values if value for bound in _bounds(value)))
    has_intervals = any(value.low is not None for each in series for value in each.values if value)
    shifts = [_SHIFT * (number - (len(series) - 1) / 2) if has_intervals else 0.0 for number in range(len(series))]
    lines = tuple(_line(each, versions, top, unit, shift) for each, shift in zip(series, shifts, strict=True))
    y_ticks = tuple(
        Tick(_y(top * number / _TICKS, top), _number(top * number / _TICKS) + (" %" if unit == "%" else ""), "end")
        for number in range(_TICKS + 1)
    )
    return Chart(id, title, description, unit, versions, series, lines, y_ticks, tuple(_x_ticks(versions)))


def _bounds(value: Value) -> tuple[float, ...]:
    return value.value, value.high if value.high is not None else value.value


def _nice(maximum: float) -> float:
    """Return the end of an axis from 0 to at least *maximum* whose quarters have short labels."""
    if maximum <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(maximum))
    return next(step * power for step in (1.0, 2.0, 4.0, 6.0, 8.0, 10.0) if step * power >= maximum * 0.999999)


def _line(series: Series, versions: tuple[str, ...], top: float, unit: str, shift: float) -> Line:
    """Return the drawing of *series*, moved by *shift* to the right so that intervals do not cover each other."""
    points: list[Point] = []
    path: list[str] = []
    connected = False
    for number, value in enumerate(series.values):
        if value is None:
            connected = False
            continue
        x, y = round(_x(number, len(versions)) + shift, 1), _y(value.value, top)
        bounds = [None if bound is None else _y(bound, top) for bound in (value.low, value.high)]
        label = f"{versions[number]}, {series.name}: {_label(value, unit)}"
        points.append(Point(x, y, bounds[0], bounds[1], label))
        path.append(f"{'L' if connected else 'M'}{x} {y}")
        connected = True
    return Line(series.name, " ".join(path), tuple(points))


def _x(number: int, count: int) -> float:
    span = WIDTH - LEFT - RIGHT - 24
    return round(LEFT + 12 + (span * number / (count - 1) if count > 1 else span / 2), 1)


def _y(value: float, top: float) -> float:
    return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - max(value, 0.0) / top), 1)


def _x_ticks(versions: tuple[str, ...]) -> list[Tick]:
    """Return the labels of the first and the last version, and of the middle one if there is room."""
    last = len(versions) - 1
    ticks = [Tick(LEFT, versions[0], "start"), Tick(WIDTH - RIGHT, versions[-1], "end")]
    if last >= 4 and last % 2 == 0 and max(map(len, versions)) <= 10:
        ticks.insert(1, Tick(_x(last // 2, last + 1), versions[last // 2]))
    return ticks


def _label(value: Value, unit: str) -> str:
    text = f"{_number(value.value)}{' ' + unit if unit and unit != 'cost' else ''}"
    if value.low is None or value.high is None:
        return text
    return f"{text} ({_number(value.low)} to {_number(value.high)})"


def _number(value: float) -> str:
    """Return *value* with three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

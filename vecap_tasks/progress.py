"""Progress of long work: bars with rate and remaining time on a terminal, otherwise lines at a bounded rate."""

from __future__ import annotations

import os
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

_LINE_INTERVAL = 5.0  # seconds between lines
_REFRESH_RATE = 4  # redraws per second
_BAR_WIDTH, _MIN_WIDTH = 24, 5  # columns of a bar: on a terminal of 80 columns or more, and the fewest
_MINUTE, _HOUR = 60, 3600
_DUMB = ("dumb", "unknown")  # values of TERM
_RECENT_SECONDS = 300.0
_MIN_RECENT = 20  # finished units


def shows_bars(stream: TextIO) -> bool:
    """Return whether *stream* is a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in _DUMB


def format_seconds(seconds: float) -> str:
    """Return a duration as `M:SS` or `H:MM:SS`."""
    minutes, rest = divmod(round(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_rate(per_second: float) -> str:
    """Return a rate per second, minute or hour: the first of them that is at least one."""
    if per_second >= 1:
        return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.1f}/s"
    if per_second * _MINUTE >= 1:
        return f"{per_second * _MINUTE:.1f}/min"
    return f"{per_second * _HOUR:.1f}/h"


def recent_pace(times: Sequence[float], started: float, now: float) -> tuple[int, float]:
    """Return how many of the sorted *times*, when units of work finished, are recent, and the seconds these took.

    Recent are the last five minutes, or the last 20 units if they took longer, so that an estimate follows a change of
    speed. Work began at *started*. The seconds are positive and include those since the last unit.
    """
    first = max(0, min(bisect_left(times, now - _RECENT_SECONDS), len(times) - _MIN_RECENT))
    since = times[first - 1] if first else started
    return len(times) - first, max(now - since, 1e-3)


def format_duration(seconds: float) -> str:
    """Return a rounded duration such as `90 s`, `25 min` or `3 h 10 min`."""
    minutes = round(seconds / _MINUTE)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class ProgressLines:
    """Lines for a log: what is done, the rates of the counters *rates*, the remaining time, and the cost.

    *units* names what is counted. *emit* gets a line at most every *interval* seconds.
    """

    def __init__(
        self, total: int, units: str, rates: Sequence[str], emit: Callable[[str], None], interval: float
    ) -> None:
        self._total = total
        self._units = units
        self._rates = rates
        self._emit = emit
        self._interval = interval
        self._times: list[float] = []  # when each unit finished
        self._counters: list[tuple[int, ...]] = []  # of each unit, in the order of `_rates`
        self._cost = 0.0
        self._emitted = -1  # finished units in the last line
        self._start = self._last = time.monotonic()

    def add(self, counters: Mapping[str, int], cost: float = 0.0) -> None:
        """Count a finished unit with its *counters* and *cost*."""
        self._times.append(time.monotonic())
        self._counters.append(tuple(counters.get(name, 0) for name in self._rates))
        self._cost += cost

    def report(self, *, at_once: bool = False) -> None:
        """Emit a line if the last one is old enough, or *at_once* if more is done than it says."""
        now, done = time.monotonic(), len(self._times)
        if now - self._last >= self._interval or (at_once and done > self._emitted):
            self._last, self._emitted = now, done
            self._emit(self.line())

    def line(self) -> str:
        """Return the line. Rates and remaining time follow from the recent units, at the end from all.

        There are none before the first unit.
        """
        now, done = time.monotonic(), len(self._times)
        parts = [f"{done:,} of {self._total:,} {self._units}"]
        if not done:
            return parts[0]
        count, seconds = recent_pace(self._times, self._start, now)
        if done == self._total:
            count, seconds = done, max(now - self._start, 1e-3)
        sums = [sum(values) for values in zip(*self._counters[-count:], strict=True)]
        parts += [f"{number / seconds:.1f} {name}/s" for number, name in zip(sums, self._rates, strict=True)]
        if done < self._total:
            parts.append(f"about {format_duration(seconds * (self._total - done) / count)} left")
        if self._cost:
            parts.append(f"cost {self._cost:.4f}, estimated total {self._cost * self._total / done:.4f}")
        return ", ".join(parts)


@dataclass(slots=True)
class Bar:
    """One piece of work. Its rate counts from the first update, or from the first one with another unit.

    `total` is None if it is unknown; the bar then only moves.
    """

    name: str
    unit: str = ""
    detail: str = ""
    done: int = 0
    total: int | None = None
    _first: int = 0
    _start: float | None = None
    _counted: float = 0.0  # seconds from the start to the last change of `done`
    _seconds: float | None = None  # in total, once it is finished

    def update(self, done: int, total: int | None, unit: str, detail: str = "") -> None:
        """Show that *done* of *total* units are done, followed by *detail*."""
        now = time.monotonic()
        if self._start is None or unit != self.unit:
            self._first, self._start, self._counted, self._seconds = done, now, 0.0, None
        elif done != self.done:
            self._counted = now - self._start
        self.done, self.total, self.unit, self.detail = done, total, unit, detail
        if total is not None and done >= total > 0:
            self.finish()

    def finish(self) -> None:
        """Stop the clock."""
        if self._seconds is None and self._start is not None:
            self._seconds = time.monotonic() - self._start

    def texts(self) -> tuple[str, str, str]:
        """Return the texts of the line: name, count, and rate with remaining time; only the name before it starts."""
        if self._start is None:
            return self.name, "", ""
        count = self.unit if self.total is None else f"{self.done:,}/{self.total:,} {self.unit}{self.detail}"
        return self.name, count, self._speed(self._start)

    def _speed(self, start: float) -> str:
        if self._seconds is not None:
            return f"took {format_seconds(self._seconds)}"
        elapsed, done = time.monotonic() - start, self.done - self._first
        if self.total is None or done <= 0 or self._counted <= 0:
            return f"{format_seconds(elapsed)} elapsed"
        left = (self.total - self.done) * self._counted / done - (elapsed - self._counted)
        return f"{format_rate(done / self._counted)}  {format_seconds(max(0.0, left))} left"


@dataclass(frozen=True, slots=True)
class Bars:
    """What a terminal shows: a line for each bar."""

    bars: list[Bar] = field(default_factory=list)

    def add(self, name: str) -> Bar:
        """Add a bar that waits for its first update."""
        self.bars.append(Bar(name))
        return self.bars[-1]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        texts = [bar.texts() for bar in self.bars]
        rest = options.max_width - sum(max(map(len, column)) + 1 for column in zip(*texts, strict=True))
        table = Table.grid(*(Column(no_wrap=True) for _ in range(4)), padding=(0, 1))
        for bar, (name, count, speed) in zip(self.bars, texts, strict=True):
            drawn = ProgressBar(bar.total, bar.done, min(rest, _BAR_WIDTH)) if count and rest >= _MIN_WIDTH else ""
            table.add_row(name, drawn, count, speed)
        yield table


class _Above:
    """Replaces a standard stream while its terminal shows bars: complete lines are printed above them."""

    def __init__(self, console: Console, stream: TextIO) -> None:
        self._console, self._stream = console, stream
        self._lock = Lock()
        self._rest = ""
        self._closed = False

    def write(self, text: str) -> int:
        with self._lock:
            if self._closed:  # a library has kept this object
                return self._stream.write(text)
            *lines, rest = (self._rest + text).split("\n")
            self._rest = rest.rpartition("\r")[2]
            for line in lines:
                self._console.out(line.rpartition("\r")[2], highlight=False)
        return len(text)

    def close_lines(self) -> None:
        """Write the incomplete last line. Later writes go to the stream itself."""
        with self._lock:
            self._closed = True
            self._stream.write(self._rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def show_bars(stream: TextIO, *, transient: bool = False) -> Iterator[Bars]:
    """Show bars on the terminal *stream* within the block; lines that are printed meanwhile appear above them.

    If *transient*, the bars disappear at the end of the block.
    """
    console, bars = Console(file=stream), Bars()
    live = Live(
        bars, console=console, transient=transient, refresh_per_second=_REFRESH_RATE,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    with ExitStack() as stack:
        for redirect, standard in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            if standard.isatty():
                above: Any = _Above(console, standard)
                stack.callback(above.close_lines)
                stack.enter_context(redirect(above))
        stack.enter_context(live)
        yield bars


class Meter:
    """Reports one piece of work on standard error: as a bar that *start* shows, or in lines without it."""

    def __init__(self, name: str, start: Callable[[], Bar] | None) -> None:
        self._name = name
        self._start = start
        self._bar: Bar | None = None
        self._last = time.monotonic()

    @property
    def is_bar(self) -> bool:
        return self._start is not None

    def update(self, done: int, total: int | None, unit: str = "shards", detail: str = "") -> None:
        """Report that *done* of *total* units are done. Prints at most one line in five seconds, and one at the end."""
        if self._start is not None:
            self._bar = self._bar or self._start()
            self._bar.update(done, total, unit, detail)
        elif total and (done == total or time.monotonic() - self._last >= _LINE_INTERVAL):
            self._last = time.monotonic()
            print(f"{self._name}: {done} of {total} {unit}", file=sys.stderr, flush=True)

    def wait(self, what: str) -> None:
        """Show that *what*, whose length is unknown, is in progress."""
        self.update(0, None, what)


@contextmanager
def meter(name: str) -> Iterator[Meter]:
    """Yield the meter of the work *name*. Its bar appears with the first update, and disappears after the block."""
    with ExitStack() as stack:

        def start() -> Bar:
            return stack.enter_context(show_bars(sys.stderr, transient=True)).add(name)

        yield Meter(name, start if shows_bars(sys.stderr) else None)

"""How far a stage is: a bar on a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_SECONDS = 5.0


@contextmanager
def progress(what: str, unit: str = "shards") -> Iterator[Callable[[int, int], None]]:
    """Give a function that takes (done, total) and shows it on standard error."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    shown = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal shown
        if total and (done == total or time.monotonic() - shown >= _EVERY_SECONDS):
            shown = time.monotonic()
            print(f"{what}: {done} of {total} {unit}", file=sys.stderr, flush=True)

    yield line

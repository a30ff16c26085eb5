"""Runs batches of items in child processes; an item that crashes a child or exceeds a limit fails alone.

The children start when first needed, are reused, and end with this process. A thread checks the busy ones; it sleeps
while none is busy.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from vecap_tasks.core.isolation.child import Child, ChildLost, ForkServer, Task
from vecap_tasks.core.isolation.messages import Item
from vecap_tasks.errors import Failure, VecapError
from vecap_tasks.redaction import redact_record

log = logging.getLogger(__name__)

T = TypeVar("T")
_POLL_SECONDS = 0.25  # between two checks of the limits
_MAX_ATTEMPTS = 2  # per item that crashes a child or exceeds a limit
_MAX_RETAINED = 256 << 20  # bytes; allocators keep freed memory, so an idle child that holds more is replaced
_BATCH_ITEMS = 64
_BATCH_BYTES = 4 << 20


class Pool:
    """Children of this process, one per concurrent batch."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._server: ForkServer | None = None
        self._idle: dict[str, list[Child]] = defaultdict(list)  # by module
        self._busy: set[Child] = set()
        self._watcher: threading.Thread | None = None

    def run(self, task: Task, items: Sequence[Item]) -> list[Any]:
        """Return the result, or the Failure, of each item.

        A crash of a child or an exceeded limit is retried once, then it is a Failure: `cpu_limit`, `memory_limit`,
        `stalled` or `crashed`. Raises errors that the items did not cause, such as OSError.
        """
        results: dict[int, Any] = {}
        losses = [0] * len(items)
        batches = deque([list(range(len(items)))] if items else [])
        while batches:
            batch = batches.popleft()
            try:
                values = self._attempt(task, [items[index] for index in batch], fresh=losses[batch[0]] > 0)
            except ChildLost as lost:
                if lost.index is None and len(batch) > 1:  # the cause is unknown
                    batches.extend([index] for index in batch)
                    continue
                culprit = batch[lost.index or 0]
                losses[culprit] += 1
                if losses[culprit] < _MAX_ATTEMPTS:
                    batches.append([culprit])
                else:
                    results[culprit] = failure = Failure(lost.reason, lost.detail)
                    log.warning("%.500s: %s after %d attempts; skipped", items[culprit].name, failure, _MAX_ATTEMPTS)
                if rest := [index for index in batch if index != culprit]:
                    batches.appendleft(rest)
            else:
                results.update(zip(batch, values, strict=True))
        return [results[index] for index in range(len(items))]

    def start(self, task: Task, count: int) -> None:
        """Start children for *task* so that *count* are idle, to save time later."""
        with self._condition:
            missing = count - len(self._idle[task.module])
        for child in [self._new_child(task.module) for _ in range(missing)]:
            self._release(child)

    def close(self) -> None:
        """End all children. They start again when needed."""
        with self._condition:
            idle = [child for children in self._idle.values() for child in children]
            server, self._server = self._server, None
            self._idle.clear()
        for child in idle:
            child.end()
        if server is not None:
            server.close()

    def _attempt(self, task: Task, items: Sequence[Item], *, fresh: bool) -> list[Any]:
        """Run one batch in a child, a new one if *fresh*. Raises ChildLost."""
        child = self._acquire(task.module, fresh=fresh)
        try:
            fault, values, records = child.run(task, items)
        except BaseException as error:
            with self._condition:
                self._busy.discard(child)
            if not isinstance(error, ChildLost):
                child.end()
            raise
        self._release(child)
        for record in records:
            logging.getLogger(record.name).handle(redact_record(record))
        if fault is not None:
            raise fault
        return values

    def _acquire(self, module: str, *, fresh: bool) -> Child:
        child = None
        with self._condition:
            if self._idle[module] and not fresh:
                child = self._idle[module].pop()
        if child is None:
            child = self._new_child(module)
        with self._condition:
            self._busy.add(child)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="limits", daemon=True)
                self._watcher.start()
            self._condition.notify_all()
        return child

    def _release(self, child: Child) -> None:
        keep = child.retained <= _MAX_RETAINED
        with self._condition:
            self._busy.discard(child)
            if keep and self._server is not None:
                self._idle[child.module].append(child)
                return
        child.end()

    def _new_child(self, module: str) -> Child:
        try:
            return Child(self._running_server(), module)
        except VecapError:  # the server was killed
            return Child(self._running_server(), module)

    def _running_server(self) -> ForkServer:
        with self._condition:
            if self._server is None or not self._server.alive():
                self._server = ForkServer()
                self._idle.clear()  # they died with their server
            return self._server

    def _watch(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._busy)
                busy = list(self._busy)
            for child in busy:
                child.check()
            time.sleep(_POLL_SECONDS)


_pool = Pool()
atexit.register(_pool.close)
os.register_at_fork(after_in_child=_pool.__init__)  # type: ignore[misc]  # a forked process needs its own children
run = _pool.run
start = _pool.start
close = _pool.close


def imap(task: Task, entries: Iterable[tuple[T, Item | None]]) -> Iterator[tuple[T, Any]]:
    """Yield each entry with the result or Failure of its item, None without an item, in order.

    While a child processes one batch, the next entries are read.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="isolation") as thread:
        running: Future[list[tuple[T, Any]]] | None = None
        for batch in _batches(entries):
            following = thread.submit(_run_batch, task, batch)
            if running is not None:
                yield from running.result()
            running = following
        if running is not None:
            yield from running.result()


def _run_batch(task: Task, batch: Sequence[tuple[T, Item | None]]) -> list[tuple[T, Any]]:
    results = iter(run(task, [item for _, item in batch if item is not None]))
    return [(entry, None if item is None else next(results)) for entry, item in batch]


def _batches(entries: Iterable[tuple[T, Item | None]]) -> Iterator[list[tuple[T, Item | None]]]:
    batch: list[tuple[T, Item | None]] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += len(entry[1].body) if entry[1] is not None else 0
        if len(batch) == _BATCH_ITEMS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

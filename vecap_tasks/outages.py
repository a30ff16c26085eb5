"""Outages: a full disk, or a service that does not answer. Work pauses until the outage ends, then resumes.

`retry` repeats one operation: a request, the write of a file, the processing of a shard. The pauses grow to half a
minute, and each is logged in one line. If the outage lasts longer than the setting `outage_timeout`, the operation
raises OutageError, which Airflow retries. The timeout belongs to the process: reading a configuration sets it.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vecap_tasks.errors import OutageError, PermanentError
from vecap_tasks.redaction import redact

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_TIMEOUT = 900.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds; with a jitter of 25 %
_FULL = re.compile(
    f"{os.strerror(errno.ENOSPC)}|{os.strerror(errno.EDQUOT)}"
    "|database or disk is full"  # SQLite
    "|'max_temp_directory_size' setting"  # DuckDB: by default, the free space
)
_QUOTED_PATH = re.compile(r'"(/[^"\\]+)\\?"')
_timeout = DEFAULT_TIMEOUT
_waits = ContextVar("waits", default=True)


def set_timeout(seconds: float) -> None:
    """Set how long operations of this process wait for the end of an outage; with 0 they fail at once."""
    global _timeout
    _timeout = seconds


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let operations of this thread fail at once within the block: an outage has been waited for already."""
    token = _waits.set(False)
    try:
        yield
    finally:
        _waits.reset(token)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an operation failed: what is unavailable, the problem in one line, and what ends the outage."""

    what: str
    problem: str
    remedy: str = "run the same command again later"


class Outage:
    """The pauses of one operation, from its first failure."""

    def __init__(self, first_pause: float = _FIRST_PAUSE) -> None:
        self._start = time.monotonic()
        self._next_pause = first_pause

    def exclude(self, seconds: float) -> None:
        """Do not count *seconds* of work as waiting."""
        self._start += seconds

    def next_pause(self, cause: Cause, error: BaseException | None = None) -> float:
        """Log the next pause and return it in seconds. Raises OutageError if the outage exceeds the timeout."""
        left = self._start + _timeout - time.monotonic() if _waits.get() else 0.0
        if left <= 0:
            raise OutageError(f"{cause.problem}; {cause.remedy}") from error
        pause = min(self._next_pause * random.uniform(0.75, 1.25), left)
        self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        log.warning("%s; next attempt in %.1f s, waiting up to %.0f s", redact(cause.problem), pause, left)
        return pause

    def end(self, cause: Cause) -> None:
        """Log that the operation succeeded."""
        log.warning("%s is available again after %.1f s; resuming", cause.what, time.monotonic() - self._start)


def retry(attempt: Callable[[], T], find_cause: Callable[[Exception], Cause | None], *, is_long: bool = False) -> T:
    """Return `attempt()`; repeat it while *find_cause* returns the outage that made it fail.

    An attempt that *is_long*, such as a shard, is repeated after long pauses only, and its time is no waiting. Raises
    other errors at once, and OutageError if the outage exceeds the timeout.
    """
    first_pause = _LONGEST_PAUSE if is_long else _FIRST_PAUSE
    outage = Outage(first_pause)
    cause: Cause | None = None
    while True:
        start = time.monotonic()
        try:
            result = attempt()
        except Exception as error:
            found = None if isinstance(error, OutageError) else find_cause(error)
            if found is None:
                if cause is not None and not isinstance(error, OutageError):  # such as a missing object
                    outage.end(cause)
                raise
            if cause is None:
                outage = Outage(first_pause)
            elif is_long:
                outage.exclude(time.monotonic() - start)
            cause = found
            pause = outage.next_pause(cause, error)
        else:
            if cause is not None:
                outage.end(cause)
            return result
        time.sleep(pause)


def retry_when_full(attempt: Callable[[], T], folder: str | Path, *, is_long: bool = False) -> T:
    """Return `attempt()`; repeat it while a disk is full. *folder* is where it writes, for the messages."""
    return retry(attempt, lambda error: full_disk(error, folder), is_long=is_long)


def full_disk(error: BaseException, folder: str | Path) -> Cause | None:
    """Return the full disk that caused *error*, None if there was another cause.

    *folder* names the disk if neither the error nor its causes have a path.
    """
    if isinstance(error, PermanentError):
        return None
    is_full, path = False, None
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            is_full, path = True, path or each.filename2 or each.filename
        elif found := _FULL.search(str(each)):
            quoted = _QUOTED_PATH.search(str(each), 0, found.start())
            is_full, path = True, path or (quoted and quoted[1])
    if not is_full:
        return None
    problem = f"{os.strerror(errno.ENOSPC)} ({path or folder})"
    return Cause(f"space in {folder}", problem, "free space and run the same command again")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and the errors that it was raised from or during."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

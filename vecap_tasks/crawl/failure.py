"""Why a page or an image could not be had: a short reason that stays the same from run to run, and a detail."""

from __future__ import annotations

import logging

from vecap_tasks.errors import VecapError

log = logging.getLogger(__name__)

# Parts of the RuntimeErrors of executors and event loops in a process that is ending, or that may start no thread.
_PROCESS = ("shutdown", "can't start new thread", "loop is closed")


class Failure(Exception):
    """One download or one image failed. `reason` is an identifier to count by, `detail` is for people.

    Failures that may pass are `temporary`; `retry_after` is what the server asked for, in seconds.
    """

    def __init__(
        self, reason: str, detail: str = "", *, temporary: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.temporary = temporary
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """`reason`, or `reason: detail`, as it stands in the column `error_message`."""
        return str(self)


def failure_of(error: Exception, where: str) -> Failure:
    """Return why the page, record, image or row *where* failed: *error* itself, or `unexpected` with its type.

    What comes from outside may raise anything in the code that reads it, and must cost itself only. An exception that
    nobody foresaw is logged, so that it is seen and fixed. Raises *error* where the fault is not the input's: an error
    for the user, of our own storage, a lack of memory, or a process that is ending.
    """
    if isinstance(error, Failure):
        return error
    ending = type(error) is RuntimeError and any(part in str(error) for part in _PROCESS)
    if ending or isinstance(error, VecapError | OSError | MemoryError):
        raise error
    name = type(error).__name__
    log.warning("%.500s: unexpected %s: %.200s", where, name, error, exc_info=log.isEnabledFor(logging.DEBUG))
    return Failure("unexpected", name)

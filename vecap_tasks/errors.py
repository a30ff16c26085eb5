"""Errors a user sees in one line, and failures of single pages or images with a stable reason."""

from __future__ import annotations

import errno
import logging
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires

log = logging.getLogger(__name__)

_DAY = 86_400.0  # seconds
_SECONDS = re.compile(r"\d+(?:\.\d*)?")
# Parts of the RuntimeErrors of executors and event loops in a process that is ending, or that may start no thread.
_PROCESS = ("shutdown", "can't start new thread", "loop is closed")


class VecapError(Exception):
    """A failure the user can act on. The message is one line; the command line prints it and exits with 1."""


class PermanentError(VecapError):
    """A failure that a retry cannot help: the configuration, an input file or the data must change first.

    Airflow does not retry it, and neither does the executor.
    """


class ConfigError(PermanentError):
    """The configuration is missing, unreadable or holds a value that cannot be used."""


class GateFailed(PermanentError):
    """The quality gate refused a crawl. Nothing is published; trying again without a change cannot help."""


class CorruptError(PermanentError):
    """A file differs from what its manifest says."""


def format_error(error: BaseException) -> str:
    """Return *error* as a single line for a person, naming the remedy where the cause is a known one."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}; free some or move `root` elsewhere, then run the same command again"
    if isinstance(error, ModuleNotFoundError) and (needed := missing_extra(error)):
        return needed
    text = " ".join(str(error).split())
    if isinstance(error, VecapError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_PACKAGES = {"cv2": "opencv-python-headless", "psycopg2": "psycopg2-binary"}  # named otherwise than their modules
_EXTRAS = {"rewrite": "captioning", "evaluate": "train", "demo": "crawl", "services": "local"}  # others: their own name
_EXTRA = re.compile(r"""([\w.-]+)[^;]*; *extra *== *['"]([\w-]+)['"]""")


def missing_extra(error: ModuleNotFoundError, part: str = "") -> str | None:
    """Return in one line which of our extras brings the module that *error* misses, or None if no extra does.

    If several do, that of *part*, a command or stage, is named if it is one of them.
    """
    module = (error.name or "").partition(".")[0]
    package = _PACKAGES.get(module, module.replace("_", "-"))
    try:
        lines = requires("vecap") or []
    except PackageNotFoundError:  # a source tree that is not installed
        lines = []
    found = [match[2] for match in map(_EXTRA.match, lines) if match and match[1] == package]
    own = _EXTRAS.get(part, part)
    if own in found:
        found = [own]
    if not found:
        return None
    names = " or ".join(f"`{name}`" for name in found)
    return f"needs the extra {names}: pip install 'vecap[{','.join(found)}]'"


def load_problem(error: BaseException) -> str:
    """Return in one line why transformers cannot load a model or tokenizer."""
    if "trust_remote_code" in str(error):  # its files have an `auto_map`
        return (
            "it needs Python code of its own (`auto_map`), which is never run here; "
            "choose a model whose architecture transformers has, or serve it (backend: openai)"
        )
    return format_error(error)


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


def retry_after_seconds(header: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, at most a day; None without a header that can be read.

    The value is a number or a date (RFC 9110, section 10.2.3). Fractions of a second, which some servers send, count.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _DAY)
    try:
        until = parsedate_to_datetime(text)
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), _DAY)
    except (ValueError, OverflowError):
        return None


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

"""Exceptions, their one-line messages, and per-item failures with stable reason identifiers."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from vecap_tasks.redaction import redact

log = logging.getLogger(__name__)

_MAX_MESSAGE = 2_000  # characters
_MAX_RETRY_AFTER = 86_400.0  # seconds
_SECONDS = re.compile(r"\d+(?:\.\d*)?")
# Fragments of the RuntimeErrors that executors and event loops raise at process shutdown or when out of threads.
_SHUTDOWN_MESSAGES = ("shutdown", "can't start new thread", "loop is closed")


class VecapError(Exception):
    """A failure the user can act on. The message is one line; the command line prints it and exits with 1.

    Each argument is one problem; the command line prints a line for each. The message never contains secrets from
    environment variables.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(each) if isinstance(each, str) else each for each in arguments))

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class PermanentError(VecapError):
    """A failure that a retry cannot fix: the configuration, an input file or the data must change first.

    Neither Airflow nor the executor retries it.
    """


class OutageError(VecapError):
    """A service did not answer, or a disk was full, for longer than the setting `outage_timeout`.

    Airflow retries it; the executor does not, because the outage has already been waited for.
    """


class ConfigError(PermanentError):
    """The configuration is missing, unreadable, or has an invalid value."""


class SettingError(PermanentError):
    """The data do not fit a setting. `setting` is its dotted name, such as `crawl.source.image_column`."""

    def __init__(self, message: str, setting: str = "") -> None:  # the default is for pickle
        super().__init__(message)
        self.setting = setting


class GateFailed(PermanentError):
    """The quality gate rejected a crawl. Nothing is published, and a retry without a change fails again."""


class CorruptError(PermanentError):
    """A file differs from its record in the manifest."""


def format_error(error: BaseException) -> str:
    """Return *error* as a single line, with the remedy if the cause is known."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        path = error.filename2 or error.filename
        where = f" ({path})" if path else ""
        return f"{os.strerror(errno.ENOSPC)}{where}; free space and run the same command again"
    if isinstance(error, ModuleNotFoundError) and (needed := missing_extra(error)):
        return needed
    text = redact(" ".join(str(error).split()))
    if len(text) > _MAX_MESSAGE:  # parsers quote their input
        text = f"{text[:_MAX_MESSAGE]} …"
    if isinstance(error, VecapError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that the misspelled *word* probably means, None if none is similar."""
    names = {name.lower(): name for name in known}
    found = get_close_matches(word.lower(), names, n=1)
    return names[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for the one of *known* that the misspelled *word* probably means, else ""."""
    found = closest(word, known)
    return f"; did you mean {found}?" if found else ""


def similar_file(path: str | Path) -> str:
    """Return ` (did you mean NAME?)` if the folder of the missing local *path* has a similar name, else ""."""
    missing = Path(path)
    try:
        found = closest(missing.name, [entry.name for entry in missing.parent.iterdir() if entry != missing])
    except OSError:
        found = None
    return f" (did you mean {found}?)" if found else ""


def format_problems(error: BaseException) -> list[str]:
    """Return the problems that *error* reports, each as a single line."""
    if isinstance(error, VecapError) and len(error.args) > 1:
        return [format_error(VecapError(problem)) for problem in error.args]
    return [format_error(error)]


_PACKAGES = {"cv2": "opencv-python-headless", "psycopg2": "psycopg2-binary"}  # module name -> distribution name
# Command or stage -> extra, where the names differ.
_EXTRAS = {
    "rewrite": "captioning",
    "evaluate": "train",
    "tune": "train",
    "compare": "train",
    "show": "assemble",
    "demo": "crawl",
    "services": "local",
}
_EXTRA = re.compile(r"""([\w.-]+)[^;]*; *extra *== *['"]([\w-]+)['"]""")


def missing_extra(error: ModuleNotFoundError, part: str = "") -> str | None:
    """Return a one-line message naming the extra that installs the module missing in *error*, or None if none does.

    If several extras install it and the one for *part*, a command or stage, is among them, name only that one.
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
            "it requires custom Python code (`auto_map`), which vecap never runs; "
            "choose a model whose architecture transformers supports, or serve it (backend: openai)"
        )
    return format_error(error)


class Failure(Exception):
    """A download or an image failed. `reason` is a stable identifier, `detail` is free text.

    `temporary` failures may succeed on a retry. `retry_after` is the wait that the server requested, in seconds.
    """

    def __init__(
        self, reason: str, detail: str = "", *, temporary: bool = False, retry_after: float | None = None
    ) -> None:
        detail = redact(detail)  # it is stored in tables
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.temporary = temporary
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Callable[..., Failure], tuple[str, str]]:
        # pickle would pass the message as the reason.
        return partial(Failure, temporary=self.temporary, retry_after=self.retry_after), (self.reason, self.detail)

    @property
    def message(self) -> str:
        """`reason`, or `reason: detail`, as in the column `error_message`."""
        return str(self)


def retry_after_seconds(header: str | None) -> float | None:
    """Return the wait that a Retry-After header requests in seconds, at most one day; None if missing or invalid.

    The value is a number or a date (RFC 9110, section 10.2.3). Fractional seconds, which some servers send, are valid.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _MAX_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(text)
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), _MAX_RETRY_AFTER)
    except (ValueError, OverflowError):
        return None


def failure_of(error: Exception, where: str) -> Failure:
    """Return why the page, record, image or row *where* failed: *error* itself, or `unexpected` with its type.

    Third-party parsers may raise any exception on external input; it must fail only that item. Unexpected exceptions
    are logged. Raises *error* if the input is not the cause: a VecapError, OSError, MemoryError, or process shutdown.
    """
    if isinstance(error, Failure):
        return error
    shutdown = type(error) is RuntimeError and any(part in str(error) for part in _SHUTDOWN_MESSAGES)
    if shutdown or isinstance(error, VecapError | OSError | MemoryError):
        raise error
    name = type(error).__name__
    log.warning("%.500s: unexpected %s: %.200s", where, name, error, exc_info=log.isEnabledFor(logging.DEBUG))
    return Failure("unexpected", name)

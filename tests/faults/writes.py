"""Observe every write to a store, and run work in a forked process that can be killed at any of them."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vecap_tasks.core.store import Store

_TIMEOUT = 100  # seconds after which a forked process is considered hung
# Parts of paths that differ between attempts; checkpoints hold times.
_RANDOM = re.compile(r"[0-9a-f]{32}|[^/]*\.try$|(?<=-)[0-9a-f]{16}(?=\.pt$)")


@contextmanager
def observe_writes(notify: Callable[[str], None]) -> Iterator[None]:
    """Call *notify* at two points of each write to any store: `<operation> <path>: begun` and `…: done`.

    On a file system, `begun` is before the rename or link of the temporary file with the data. On S3 and for a removal,
    it is before the operation; for a folder with several files, after the first is deleted. `done` is after the write,
    before it returns. An exception from *notify* propagates from the write. Removing a missing file is not a write.
    """
    pending: list[str] = []
    remove = Store.remove

    def observed(operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def write(store: Store, name: str, *arguments: Any) -> Any:
            point = f"{operation} {_RANDOM.sub('*', arguments[0] if operation == 'copy' else name)}"
            if operation.startswith("remove"):
                paths = [name] if store.exists(name) else [file.path for file in store.tree(name)]
                if not paths:
                    return real(store, name)
                if len(paths) > 1:
                    remove(store, paths[0])
                notify(f"{point}: begun")
            elif store.remote:
                notify(f"{point}: begun")
            else:
                pending.append(point)
            result = real(store, name, *arguments)
            assert not pending, f"{point}: the file was published without os.replace or os.link"
            notify(f"{point}: done")
            return result

        return write

    def placed(real: Callable[..., Any]) -> Callable[..., Any]:
        def place(*arguments: Any, **named: Any) -> Any:
            if pending:
                notify(f"{pending.pop()}: begun")
            return real(*arguments, **named)

        return place

    with pytest.MonkeyPatch.context() as patch:
        for operation in ("put", "upload", "create", "copy", "remove", "remove_folder"):
            patch.setattr(Store, operation, observed(operation, getattr(Store, operation)))
        for name in ("replace", "link"):
            patch.setattr(os, name, placed(getattr(os, name)))
        patch.setattr(os, "fsync", lambda descriptor: None)  # needed only for a power failure
        yield


def run_forked(work: Callable[[int], None], log: Path) -> tuple[int, str]:
    """Run *work* in a fork of this process; return its exit code and what it wrote to its descriptor argument.

    The fork has all modules imported and no other thread, so it starts quickly and can be killed at any moment. It
    appends its output and log to the file *log*, and puts temporary files next to it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            gc.freeze()  # the parent's objects need no garbage collection here
            with log.open("a") as stream:
                faulthandler.dump_traceback_later(_TIMEOUT, exit=True, file=stream)
                sys.stdout = sys.stderr = stream
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
                logging.getLogger("vecap_tasks").addHandler(logging.StreamHandler(stream))
                logging.getLogger("vecap_tasks").setLevel(logging.DEBUG)
                tempfile.tempdir = str(log.parent)
                try:
                    work(writing)
                    code = 0
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        output = stream.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output

"""Images that a file of the source holds already, read from there instead of the web."""

from __future__ import annotations

from pathlib import Path

from vecap_tasks.config import Config
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.links import Stored


def read_stored(config: Config, stored: Stored) -> bytes:
    """Return the bytes of an image. Raises Failure: `not_stored` where the file is not what it was."""
    path = Path(config.resolve(stored.archive).removeprefix("file://"))
    try:
        with path.open("rb") as stream:
            stream.seek(stored.offset)
            body = stream.read(stored.length)
    except OSError as error:
        raise Failure("not_stored", error.strerror or "") from error
    if len(body) < stored.length:
        raise Failure("not_stored", "the file is shorter than it was")
    return body

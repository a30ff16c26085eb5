"""Images that a file of the source holds already, read from there instead of the web."""

from __future__ import annotations

from vecap_tasks.config import Config
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.links import Stored
from vecap_tasks.dataset.store import open_filesystem


def read_stored(config: Config, stored: Stored) -> bytes:
    """Return the bytes of an image: of its file, here or on S3, only they are read.

    Raises Failure: `not_stored` where the file is not what it was, `too_large` as for what is fetched.
    """
    if stored.length > config.crawl.fetch.max_bytes:
        raise Failure("too_large")
    filesystem, path = open_filesystem(config.resolve(stored.archive))
    try:
        with filesystem.open_input_file(path) as stream:
            stream.seek(stored.offset)
            body: bytes = stream.read(stored.length)
    except OSError as error:  # its text has paths of this machine, and the ids of requests
        missing = isinstance(error, FileNotFoundError)
        raise Failure("not_stored", "there is no such file" if missing else "the file cannot be read") from error
    if len(body) < stored.length:
        raise Failure("not_stored", "the file is shorter than it was")
    return body

"""Images that a file of the source holds already, read from there instead of the web."""

from __future__ import annotations

import io

from vecap_tasks.config import Config, FetchConfig, WarcSource
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.links import Stored
from vecap_tasks.crawl.optout import opted_out
from vecap_tasks.crawl.robots import product_token
from vecap_tasks.crawl.sources.answer import MAX_HEADER, answer_of
from vecap_tasks.crawl.sources.records import Records
from vecap_tasks.dataset.store import open_filesystem
from vecap_tasks.errors import VecapError


def read_stored(config: Config, stored: Stored) -> bytes:
    """Return the bytes of an image: of its file, here or on S3, only they are read.

    Raises Failure: `not_stored` where the file is not what it was, `too_large` as for what is fetched, and of a
    record of a WARC file what a download would raise: `opt_out`, `bad_encoding`.
    """
    record = isinstance(config.crawl.source, WarcSource)  # else a tar's member
    if stored.length > config.crawl.fetch.max_bytes + (MAX_HEADER if record else 0):
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
    return _payload(body, config.crawl.fetch) if record else body


def _payload(record: bytes, fetch: FetchConfig) -> bytes:
    """Return the body of the answer that a record, gzipped or not, holds."""
    records = Records(io.BytesIO(record), "record", frozenset({"response", "resource"}), fetch.max_bytes + MAX_HEADER)
    try:
        answer = answer_of(next(iter(records)))
    except (VecapError, StopIteration) as error:
        raise Failure("not_stored", "no record lies there any more") from error
    if fetch.robots and (rule := opted_out(answer.robots_tags, product_token(fetch.user_agent))):
        raise Failure("opt_out", rule)
    return answer.body(fetch.max_bytes)

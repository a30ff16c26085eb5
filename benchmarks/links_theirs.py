"""Their side of `benchmarks.links`, run by a Python that has the tools: `links_theirs.py FUNCTION FILE OUT`.

Prints one JSON object: `count` (links with an AltText, or records) and `seconds` without the start of the process.
"""

from __future__ import annotations

import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path


def cc2dataset_wat(file: Path, out: Path) -> int:
    """Process one WAT file like a cc2dataset task, then write a table, like Spark does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _cc2dataset().process_wat(str(file), "image")
    table = pa.table(dict(zip(("uid", "url", "alt", "cc_filename", "page_url"), zip(*rows, strict=True), strict=True)))
    pq.write_table(table, out)
    return int(table.num_rows)


def _cc2dataset() -> types.ModuleType:
    """Import cc2dataset without Spark, which only distributes `process_wat`."""
    for name in ("pyspark", "pyspark.sql", "pyspark.sql.functions"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["pyspark"].SparkContext = sys.modules["pyspark.sql"].SparkSession = object  # type: ignore[attr-defined]
    sys.modules["pyspark.sql.functions"].rand = None  # type: ignore[attr-defined]
    from cc2dataset import main
    from loguru import logger

    logger.remove()
    return main


def resiliparse_warc(file: Path, out: Path) -> int:
    """Extract links with FastWARC and resiliparse as documented, to the columns of cc2dataset."""
    from hashlib import md5
    from urllib.parse import urljoin

    import pyarrow as pa
    import pyarrow.parquet as pq
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    rows: list[tuple[str, str, str, str, str]] = []
    with file.open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
            page_url = record.headers["WARC-Target-URI"]
            body = record.reader.read()
            tree = HTMLTree.parse_from_bytes(body, record.http_charset or detect_encoding(body))
            base = tree.document.query_selector("base[href]")
            base_url = urljoin(page_url, base.getattr("href")) if base else page_url
            for image in tree.document.get_elements_by_tag_name("img"):
                alt, source = image.getattr("alt"), image.getattr("src")
                if alt and source:
                    url = urljoin(base_url, source)
                    if url.startswith(("http://", "https://")):
                        rows.append(
                            (
                                md5((alt + url).encode(), usedforsecurity=False).hexdigest(),
                                url,
                                alt,
                                file.name,
                                page_url,
                            )
                        )
    names = ("uid", "url", "alt", "cc_filename", "page_url")
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), out)
    return len(rows)


def warcio_records(file: Path, out: Path) -> int:
    """Read the content of every record with warcio."""
    from warcio.archiveiterator import ArchiveIterator

    count = 0
    with file.open("rb") as stream:
        for record in ArchiveIterator(stream):
            record.content_stream().read()
            count += 1
    return count


def fastwarc_records(file: Path, out: Path) -> int:
    """Read the content of every record with FastWARC."""
    from fastwarc.warc import ArchiveIterator

    count = 0
    with file.open("rb") as stream:
        for record in ArchiveIterator(stream):
            record.reader.read()
            count += 1
    return count


FUNCTIONS: dict[str, Callable[[Path, Path], int]] = {
    function.__name__: function for function in (cc2dataset_wat, resiliparse_warc, warcio_records, fastwarc_records)
}


if __name__ == "__main__":
    function, file, out = sys.argv[1:]
    start = time.process_time()
    count = FUNCTIONS[function](Path(file), Path(out))
    print(json.dumps({"count": count, "seconds": time.process_time() - start}))

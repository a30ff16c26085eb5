"""The formats of an export: how a shard is written, and the files that a reader needs in addition to the shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from vecap_tasks.core.manifest import canonical_json
from vecap_tasks.core.tar import TarWriter

IMAGE = "image"
SPLIT = "train"
_IMAGE_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_BATCH = 100  # rows of a row group or record batch; readers load one at a time
_REPEATED = ("license", "vecap_from")  # columns with few distinct values

Columns = Mapping[str, pa.DataType]


class ShardWriter(Protocol):
    """Writes one shard to a new local file. Use it in a `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, record: Mapping[str, Any], jpeg: bytes) -> None:
        """Append a sample: a record with the columns of the export, and its image."""


class TarShard:
    """Webdataset samples: `KEY.jpg`, `KEY.txt` with the (first) text, and `KEY.json` with all columns."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._tar = TarWriter(path)

    def __enter__(self) -> Self:
        self._tar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.__exit__(kind, error, trace)

    def write(self, record: Mapping[str, Any], jpeg: bytes) -> None:
        text = record["text"] if isinstance(record["text"], str) else record["text"][0]
        self._tar.write(record["key"], {"jpg": jpeg, "txt": text.encode(), "json": canonical_json(record)})


class _BatchedShard:
    """Collects rows and writes them in batches of `_BATCH`, so that memory does not grow with the shard."""

    def __init__(self, columns: Columns) -> None:
        self.schema = schema(columns)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._rows:
                self._flush()
        finally:
            self.close()

    def write(self, record: Mapping[str, Any], jpeg: bytes) -> None:
        self._rows.append({IMAGE: {"bytes": jpeg, "path": f"{record['key']}.jpg"}, **record})
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        self.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self.schema))
        self._rows = []

    def write_batch(self, batch: pa.RecordBatch) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class ParquetShard(_BatchedShard):
    """Parquet with an image column and the features of the library `datasets` in its metadata."""

    def __init__(self, path: Path, columns: Columns) -> None:
        super().__init__(columns)
        statistics = [name for name, kind in columns.items() if not pt.is_list(kind)]
        self._writer = pq.ParquetWriter(
            path, self.schema, compression="zstd", use_dictionary=list(_REPEATED), write_statistics=statistics
        )

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch, row_group_size=_BATCH)

    def close(self) -> None:
        self._writer.close()


class ArrowShard(_BatchedShard):
    """An Arrow stream as `Dataset.save_to_disk` writes it."""

    def __init__(self, path: Path, columns: Columns) -> None:
        super().__init__(columns)
        self._writer = pa.ipc.new_stream(str(path), self.schema)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


@dataclass(frozen=True, slots=True)
class Format:
    """A format by the name of the option `--format`.

    `file` is the name of a shard, with its number and their total; `pattern` matches all shards.
    """

    name: str
    writer: type[TarShard | ParquetShard | ArrowShard]
    file: str
    pattern: str

    def shard(self, number: int, total: int) -> str:
        """Return the file name of the shard *number*, which counts from 0."""
        return self.file.format(number=number, total=total)


FORMATS = {
    found.name: found
    for found in (
        Format("webdataset", TarShard, "{number:05d}.tar", "*.tar"),
        Format("parquet", ParquetShard, f"data/{SPLIT}-{{number:05d}}-of-{{total:05d}}.parquet", "data/*.parquet"),
        Format("hf", ArrowShard, "data-{number:05d}-of-{total:05d}.arrow", "*.arrow"),
    )
}


def schema(columns: Columns) -> pa.Schema:
    """Return the Arrow schema of the image and *columns*, with the features of the library `datasets`."""
    fields = [pa.field(IMAGE, _IMAGE_TYPE), *(pa.field(name, kind) for name, kind in columns.items())]
    info = {"info": {"features": features(columns)}}
    return pa.schema(fields, metadata={"huggingface": json.dumps(info)})


def features(columns: Columns) -> dict[str, Any]:
    """Return the features of the image and *columns* as `dataset_info.json` has them."""
    return {IMAGE: {"_type": "Image"}, **{name: _feature(kind) for name, kind in columns.items()}}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pt.is_list(kind):  # releases of `datasets` before 4 know no `List`
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": str(kind), "_type": "Value"}


def card_features(form: Format, columns: Columns) -> list[dict[str, Any]]:
    """Return the features of *form* as the front matter of a dataset card has them."""
    fields = [_card_feature(name, kind) for name, kind in columns.items()]
    if form.writer is TarShard:
        members = [{"name": "jpg", "dtype": "image"}, {"name": "txt", "dtype": "string"}]
        return [*members, {"name": "json", "struct": fields}]
    return [{"name": IMAGE, "dtype": "image"}, *fields]


def _card_feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    if pt.is_list(kind):
        return {"name": name, "sequence": str(kind.value_type)}
    return {"name": name, "dtype": str(kind)}


def index_files(form: Format, columns: Columns, rows: Sequence[int], identity: str) -> dict[str, bytes]:
    """Return the files that list the shards, whose numbers of rows are *rows*, by name.

    open_clip reads `sizes.json`, `datasets.load_from_disk` the other two. *identity* is a digest of the export.
    """
    names = [form.shard(number, len(rows)) for number in range(len(rows))]
    if form.writer is TarShard:
        return {"sizes.json": _json(dict(zip(names, rows, strict=True)))}
    if form.writer is ParquetShard:
        return {}
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": identity[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": SPLIT,
    }
    return {"state.json": _json(state), "dataset_info.json": _json({"features": features(columns)})}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"

"""Scaling of the orchestration: Airflow, Dask and manifests over 300, 3,000 and 30,000 shards of a fake stage.

    python -m benchmarks.scale [--duplicates ROWS …] [--judging ROWS …] [--reading N …] [--shards N …] [--json FILE]
    python -m benchmarks.scale --stages 100 300 1000 3000 [--rounds N] [--folder FOLDER] [--json FILE]

Starts the local services in a temporary folder and runs a DAG with one stage: plan, eight mapped groups, commit, like
in the product. A shard takes 3 ms and writes one small file. Also measures peak memory of Airflow's scheduler, Dask's
scheduler and the largest Airflow task (the driver), PostgreSQL transactions, and S3 requests per shard, counted by a
server. There is no other tool to compare with.

`--stages` measures only the real stages, at these numbers of shards (`benchmarks/stages.py`). With the same `--folder`,
an interrupted measurement continues.

`--judging` measures only the stage quality, on generated crawls of these sizes (`benchmarks/judging.py`).

First measures what a shard of the stage rewrite costs before its first caption, for 100, 300 and 1,000 crawl shards of
1,000 rows: it reads the tables of its own rows, so that the cost is constant.

With `--duplicates`, measures only the search for duplicates: in synthetic crawls of each size, in a next version of a
tenth of the rows, with and without the index of the first, and in one part as dense as one of 300 million hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.duplicates import duplicates
from benchmarks.fakes import CONFIG, StandIn
from benchmarks.judging import judging
from benchmarks.orchestration import through_airflow
from benchmarks.report import Measure, machine, report
from benchmarks.stages import measure_stages
from vecap_tasks.config import load_config
from vecap_tasks.core.manifest import FileEntry, Manifest
from vecap_tasks.core.schemas import CRAWL, VERDICTS
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.version import Version
from vecap_tasks.rewrite.stage import Rewrite

_ROWS = 1_000  # per shard, to read


def on_s3(shards: int = 20) -> list[Measure]:
    """Count the S3 requests of a stage with *shards* shards: per shard, and fixed."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    requests: Counter[str] = Counter()
    app = DomainDispatcherApplication(create_backend_app)

    def counting_app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        listing = environ["REQUEST_METHOD"] == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        requests["LIST" if listing else environ["REQUEST_METHOD"]] += 1
        return app(environ, start)

    server = make_server("127.0.0.1", 0, counting_app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket="scale")
    measures = []
    counts = []
    for size in (shards, 2 * shards):
        requests.clear()
        overrides = ["root=s3://scale/store", f"crawl.shard_size={size}"]
        stage = StandIn(load_config(CONFIG, overrides), Version("demo", f"of-{size}", 1, ""))
        for shard in stage.plan():
            stage.run(shard)
        stage.commit()
        counts.append(Counter(requests))
    server.shutdown()
    for kind in sorted(counts[1]):
        per_shard = (counts[1][kind] - counts[0][kind]) / shards
        measures.append(Measure(f"S3: {kind} per shard", "requests", per_shard, conditions="one file per shard"))
        measures.append(Measure(f"S3: {kind}, fixed", "requests", counts[0][kind] - per_shard * shards))
    return measures


def reading(shards: int) -> list[Measure]:
    """Measure the CPU time in which a shard of rewrite reads its rows, with *shards* crawl shards, on a file system."""
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as folder:
        overrides = [f"root={folder}/store", f"crawl.shard_size={_ROWS}", f"rewrite.shard_size={_ROWS}"]
        stage = Rewrite(load_config(CONFIG, overrides), Version("demo", "2026-01-01", 1, ""))
        _write_tables(stage, shards)
        names = stage.shards()
        start = time.process_time()
        picked = [names[0], names[len(names) // 2], names[-2]]
        for name in picked:
            with stage.store.workspace() as work:
                stage.read_rows(name, work)
        seconds = (time.process_time() - start) / len(picked)
    conditions = f"{machine()}, {_ROWS} rows per shard, nine of ten accepted"
    return [Measure(f"{shards:,} crawl shards: CPU to read the rows of a shard", "s", seconds, conditions=conditions)]


def _write_tables(stage: Rewrite, shards: int) -> None:
    """Write crawl tables and verdicts of *shards* crawl shards, without images, with their manifests."""
    crawl, quality = stage.upstream_stage("crawl"), stage.upstream_stage("quality")
    files: dict[str, list[FileEntry]] = {"crawl": [], "quality": []}
    accepted = {}
    with stage.store.workspace() as work:

        def add(owner: Stage, name: str, rows: list[dict[str, Any]], schema: pa.Schema | None) -> None:
            path = work / name
            path.parent.mkdir(exist_ok=True)
            if schema is None:
                path.write_bytes(b"")
            else:
                write_rows(pa.Table.from_pylist(rows, schema).to_batches(), schema, path)
            files[owner.name].append(FileEntry.from_file(work, name, len(rows)))
            stage.store.upload(f"{owner.folder}/{name}", path)

        for shard in (f"{number:05d}" for number in range(shards)):
            rows = [_row(shard, number) for number in range(_ROWS)]
            add(crawl, f"{shard}.parquet", rows, CRAWL)
            add(crawl, f"{shard}.tar", [], None)
            add(quality, f"verdicts/{shard}.parquet", rows, VERDICTS)
            accepted[shard] = sum(row["accepted"] for row in rows)
        (work / "accepted.json").write_text(json.dumps(accepted))
        files["quality"].append(FileEntry.from_file(work, "accepted.json", None))
        stage.store.upload(f"{quality.folder}/accepted.json", work / "accepted.json")
    for owner in (crawl, quality):
        manifest = Manifest(
            dataset=stage.config.dataset,
            interval=stage.version.interval,
            stage=owner.name,
            fingerprint=owner.fingerprint,
            config=owner.identity(),
            inputs=(),
            files=tuple(files[owner.name]),
            counters={"accepted": sum(accepted.values())},
            location=owner.folder,
        )
        stage.store.put(f"{owner.folder}/manifest.json", manifest.to_json())


def _row(shard: str, number: int) -> dict[str, Any]:
    sha256 = hashlib.sha256(f"{shard} {number}".encode()).hexdigest()
    row = {"key": f"{shard}{number:04d}", "uid": sha256[:32], "sha256": sha256, "jpeg_sha256": sha256[::-1]}
    row |= {"url": f"https://host{number % 97}.example/{sha256[:20]}.jpg", "source": "web", "status": "success"}
    text = f"A picture numbered {number} of a thing in a garden {sha256[:10]}"
    return row | {"caption": text, "alttext": text, "accepted": number % 10 > 0, "reasons": []}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[300, 3_000, 30_000], metavar="N")
    parser.add_argument("--reading", type=int, nargs="+", default=[100, 300, 1_000], metavar="N")
    parser.add_argument("--duplicates", type=int, nargs="+", metavar="ROWS")
    parser.add_argument("--stages", type=int, nargs="+", metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of --stages (default: 3)")
    parser.add_argument("--folder", type=Path, help="of --stages, for all its files (default: a temporary folder)")
    parser.add_argument("--judging", type=int, nargs="+", metavar="ROWS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.stages:
        with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as temporary:
            folder = arguments.folder or Path(temporary)
            report(measure_stages(arguments.stages, arguments.rounds, folder), arguments.json)
        return
    if arguments.duplicates or arguments.judging:
        found = duplicates(arguments.duplicates) if arguments.duplicates else []
        report([*found, *(measure for rows in arguments.judging or () for measure in judging(rows))], arguments.json)
        return
    read = [measure for shards in arguments.reading for measure in reading(shards)]
    report([*read, *on_s3(), *through_airflow(arguments.shards)], arguments.json)


if __name__ == "__main__":
    main()

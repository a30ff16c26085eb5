"""Scaling of the orchestration and of the stages.

    python -m benchmarks.scale [--shards N …] [--json FILE]
    python -m benchmarks.scale --stages 100 300 1000 3000 [--rounds N] [--folder FOLDER] [--json FILE]
    python -m benchmarks.scale --judging ROWS … [--images] [--folder FOLDER] [--json FILE]
    python -m benchmarks.scale --duplicates ROWS … [--json FILE]

By default, runs a stage through Airflow and Dask at each number of shards (`benchmarks/orchestration.py`), and counts
the S3 requests per shard of a stage that only writes. There is no other tool to compare with.

`--stages` measures only the real stages, at these numbers of shards (`benchmarks/stages.py`). With the same `--folder`,
an interrupted measurement continues.

`--judging` measures only the stage quality, and what a shard of rewrite reads, on generated crawls of these sizes
(`benchmarks/judging.py`).

With `--duplicates`, measures only the search for duplicates: in synthetic crawls of each size, in a next version of a
tenth of the rows, with and without the index of the first, and in one part as dense as one of 300 million hashes.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.duplicates import duplicates
from benchmarks.fakes import CONFIG, StandIn
from benchmarks.judging import judging
from benchmarks.orchestration import through_airflow
from benchmarks.report import Measure, report
from benchmarks.stages import measure_stages
from vecap_tasks.config import load_config
from vecap_tasks.core.version import Version


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[300, 3_000, 30_000], metavar="N")
    parser.add_argument("--duplicates", type=int, nargs="+", metavar="ROWS")
    parser.add_argument("--stages", type=int, nargs="+", metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of --stages (default: 3)")
    parser.add_argument(
        "--folder", type=Path, help="of --stages and --judging, for all their files (default: temporary)"
    )
    parser.add_argument("--judging", type=int, nargs="+", metavar="ROWS")
    parser.add_argument("--images", action="store_true", help="of --judging: with JPEGs, rewrite and assemble")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.stages:
        with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as temporary:
            folder = arguments.folder or Path(temporary)
            report(measure_stages(arguments.stages, arguments.rounds, folder), arguments.json)
        return
    if arguments.duplicates or arguments.judging:
        found = duplicates(arguments.duplicates) if arguments.duplicates else []
        for rows in arguments.judging or ():
            found += judging(rows, arguments.folder, images=arguments.images)
        report(found, arguments.json)
        return
    report([*on_s3(), *through_airflow(arguments.shards)], arguments.json)


if __name__ == "__main__":
    main()

"""The DAG `vecap_dataset`: one run takes one crawl interval through every stage and publishes a dataset version."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, CronPartitionTimetable, Param, chain, get_current_context, task
from vecap_airflow.job import (
    INTERVAL_PATTERN,
    Job,
    config_param,
    groups_param,
    interval_of_run,
    overrides_param,
    schedule_from,
)
from vecap_airflow.tasks import RETRIES, fail_permanently, publish_each, stage_group

log = logging.getLogger(__name__)

DOCS = """
**One run = one partition = one dataset version.** Takes the crawl of one day through `crawl` (fetch and decode the
images), `quality` (judge every row; a bad crawl is refused), `rewrite` (a VLM describes, an LLM fuses that with the
AltText) and `assemble` (training shards), then publishes the version: it appears in MLflow, and `vecap_clip` starts.

- **By the clock**: every midnight (UTC) for the day that ended, from the installation on.
- **By hand**: *Trigger* with a partition key such as `2026-01-01`, or with the parameter `interval`.
- **Many days**: `airflow backfill create --dag-id vecap_dataset --from-date 2026-01-01 --to-date 2026-01-07`.

Running a partition again does only what is missing; a finished one is found and left as it is. Another configuration
gives a revision (`2026-01-01-r2`) beside the version.
"""

with DAG(
    "vecap_dataset",
    description="A crawl in, a published dataset version out",
    doc_md=DOCS,
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    start_date=schedule_from(),
    catchup=False,
    max_active_runs=3,
    tags=["vecap"],
    params={
        "config": config_param(),
        "overrides": overrides_param(),
        "interval": Param(
            None,
            type=["null", "string"],
            pattern=INTERVAL_PATTERN,
            title="Interval",
            description="The crawl interval to make, such as `2026-01-01` or `2026-01-01T05`, where the run has no "
            "partition key.",
            section="What to run",
        ),
        "groups": groups_param(4),
    },
) as dag:

    @task(**RETRIES)
    def open_version() -> dict[str, Any]:
        """Register the version that the configuration makes of the run's interval, or find it."""
        from vecap_tasks.core.open_version import open_version as find_or_register
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import version_status

        context = get_current_context()
        params = context["params"]
        with fail_permanently():
            job = Job.read(params["config"], params["overrides"])
            config = job.load()
            interval = interval_of_run(context["dag_run"].partition_key, params["interval"])
            store = Store(config.resolve(config.root))
            version = find_or_register(config, store, interval)
            log.info("%s", version_status(store, version))
            return job.with_versions(version.name).to_xcom()

    opened = open_version()
    assembled = stage_group("assemble", opened)
    chain(
        stage_group("crawl", opened),
        stage_group("quality", opened),
        stage_group("rewrite", opened, pool="captioning"),
        assembled,
        publish_each(opened, assembled),
    )

"""The DAG `vecap_dataset`: one run processes one crawl interval and publishes a dataset version."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, CronPartitionTimetable, Param, chain, get_current_context
from vecap_airflow.job import (
    INTERVAL_PATTERN,
    PAGES,
    Job,
    config_param,
    groups_param,
    interval_of_run,
    overrides_param,
    schedule_from,
)
from vecap_airflow.links import store_version_link, version_link_task
from vecap_airflow.tasks import RETRIES, fail_permanently, publish_each, stage_group

log = logging.getLogger(__name__)

DOCS = f"""
**Each run processes one crawl interval and publishes one dataset version.** Stages: `crawl` (downloads and decodes
images), `quality` (row rules and quality gate), `rewrite` (a VLM writes VeC, an LLM fuses it with AltText into VeCap)
and `assemble` (writes training shards). Publishing records the version in MLflow and triggers `vecap_clip`.

- **Result**: [all versions]({PAGES}/versions), and the button *Dataset version* on each task.
- **Scheduled**: daily at midnight UTC, for the previous day.
- **Manual**: *Trigger* with the interval, such as `2026-01-01`.
- **Backfill**: `airflow backfill create --dag-id vecap_dataset --from-date 2026-01-01 --to-date 2026-01-07`.

Rerunning an interval with the same configuration processes only missing work. A changed configuration creates a
revision (`2026-01-01-r2`); existing versions do not change.
"""

with DAG(
    "vecap_dataset",
    description="Build and publish a dataset version from a crawl interval",
    doc_md=DOCS,
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    start_date=schedule_from(),
    catchup=False,
    max_active_runs=3,
    tags=["vecap"],
    params={
        "interval": Param(
            None,
            type=["null", "string"],
            pattern=INTERVAL_PATTERN,
            title="Interval",
            description="Date of the crawl to process, such as 2026-01-01, or its hour, such as 2026-01-01T05. Leave "
            "empty if you set a partition key in the advanced options.",
        ),
        "config": config_param(),
        "overrides": overrides_param(),
        "groups": groups_param(4),
    },
) as dag:

    @version_link_task(**RETRIES)
    def open_version() -> dict[str, Any]:
        """Find or register the version of the run's interval and configuration."""
        from vecap_tasks.core.open_version import check_stages
        from vecap_tasks.core.open_version import open_version as find_or_register
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import DATASET_STAGES, version_status

        context = get_current_context()
        params = context["params"]
        with fail_permanently():
            job = Job.read(params["config"], params["overrides"])
            config = job.load()
            interval = interval_of_run(context["dag_run"].partition_key, params["interval"])
            store = Store(config.resolve(config.root))
            check_stages(config, store, interval, DATASET_STAGES)
            version = find_or_register(config, store, interval)
            store_version_link([version.name])
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

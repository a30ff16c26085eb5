"""The stage rewrite of one version, with the tasks of the product's DAGs."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from vecap_airflow.job import Job, groups_param
from vecap_airflow.tasks import stage_group

with DAG(
    "vecap_scale",
    description="The stage rewrite over shards of four rows",
    schedule=None,
    params={
        "interval": Param("2026-01-01", type="string"),
        "config": Param("", type="string"),
        "groups": groups_param(8),
    },
):

    @task
    def open_version() -> dict[str, Any]:
        """Find the version of `interval`, whose crawl and quality are complete."""
        from vecap_tasks.core.open_version import open_version
        from vecap_tasks.core.store import Store

        params = get_current_context()["params"]
        job = Job.read(params["config"], [])
        config = job.load()
        version = open_version(config, Store(config.resolve(config.root)), params["interval"])
        return job.with_versions(version.name).to_xcom()

    stage_group("rewrite", open_version())

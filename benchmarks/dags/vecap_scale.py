"""One stage over many shards, orchestrated like the product's DAGs, with a fake workload."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from vecap_airflow.job import Job, groups_param
from vecap_airflow.tasks import stage_group

from vecap_tasks.core import stage as core_stage

core_stage.STAGES["crawl"] = "benchmarks.fakes:StandIn"

with DAG(
    "vecap_scale",
    description="Fake stage that takes milliseconds per shard",
    schedule=None,
    params={"shards": Param(300, type="integer"), "config": Param("", type="string"), "groups": groups_param(8)},
):

    @task
    def open_version() -> dict[str, Any]:
        """Register a version with `shards` shards."""
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import register

        params = get_current_context()["params"]
        job = Job.read(params["config"], [f"crawl.shard_size={params['shards']}"])
        config = job.load()
        name = f"of-{params['shards']}"
        register(Store(config.resolve(config.root)), config.dataset, name, name, {})
        return job.with_versions(name).to_xcom()

    stage_group("crawl", open_version())

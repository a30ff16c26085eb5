"""The DAG `vecap_clip`: trains and evaluates one CLIP model per arm and seed on a published version."""

from __future__ import annotations

import logging
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, PartitionedAssetTimetable, TriggerRule, chain, get_current_context, task
from vecap_airflow.job import DATASET_VERSION, PAGES, Job, config_param, groups_param, overrides_param, version_param
from vecap_airflow.links import (
    model_link_task,
    run_link_task,
    store_model_link,
    store_run_link,
    store_version_link,
)
from vecap_airflow.tasks import RETRIES, fail_permanently, run_tags, stage_group, versions_of

log = logging.getLogger(__name__)

DOCS = f"""
**Trains and evaluates all arms.** Runs for each version that `vecap_dataset` or `vecap_recaption` publishes, with that
version's configuration. For a manual run, set the version. `train` trains one CLIP model per arm (`alttext`, `vec`,
`vecap`, `mixed`) and seed. `evaluate` measures retrieval and zero-shot classification. `record` logs models and results
to MLflow, linked to the version. A version that already has results is a no-op. A published version whose configuration
has no section `train` is skipped.

`compare_champion` registers the best model and compares it with the model that has the alias `champion`. If the
improvement is significant, `promote` moves the alias. With `evaluate.champion.approval` set in the configuration or as
an override, `approve` first requests approval under *Required actions*; a rejection keeps the current champion.

- **Result**: the buttons *MLflow run* on `record` and *Registered model* on `promote`, and the
  [lineage of the champion]({PAGES}/champion).
"""

with DAG(
    "vecap_clip",
    description="A published dataset version in, evaluated CLIP models out",
    doc_md=DOCS,
    schedule=PartitionedAssetTimetable(assets=DATASET_VERSION),
    catchup=False,
    max_active_runs=3,
    tags=["vecap"],
    params={
        "version": version_param(
            "Published version to train on, such as 2026-01-01 or 2026-01-01-r2. Ignored in runs that a "
            "new version triggers."
        ),
        "config": config_param(),
        "overrides": overrides_param(),
        "groups": groups_param(4),
    },
) as dag:

    @task.short_circuit(**RETRIES)
    def find_version() -> dict[str, Any] | None:
        """Return the job for the version of the triggering event, or of the parameter `version`.

        None, which skips all other tasks, if a version was published whose configuration has no section `train`.
        """
        from vecap_tasks.core.stage import load_stage
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import published, read_version
        from vecap_tasks.errors import ConfigError

        context = get_current_context()
        events = [event for asset_events in context["triggering_asset_events"].values() for event in asset_events]
        params = context["params"]
        with fail_permanently():
            if events:
                extra = events[-1].extra
                job = Job.read(extra["config"], extra["overrides"], [extra["version"]])
            else:
                name = params["version"] or context["dag_run"].partition_key
                if not name:
                    raise ConfigError("no version: trigger the run with the parameter `version`")
                job = Job.read(params["config"], params["overrides"], [name])
            config = job.load()
            if events and config.train is None:
                log.info("nothing to train: %s has no section `train`; skipping", job.config)
                return None
            for section in ("train", "evaluate"):
                config.section(section)
            store = Store(config.resolve(config.root))
            for name in job.versions:
                version = read_version(store, config.dataset, name)
                if published(store, version) is None:
                    raise ConfigError(f"version {name} is not published; run vecap_dataset for its interval first")
                if load_stage("assemble", config, version).fingerprint != version.fingerprint:
                    raise ConfigError(
                        f"{job.config} with these overrides does not match version {name}; "
                        f"use the overrides of {name}, or revert later changes to the file"
                    )
            return job.to_xcom()

    @run_link_task(**RETRIES)
    def record(job: dict[str, Any]) -> None:
        """Record the models, their results and the version in MLflow."""
        from vecap_tasks import lineage

        with fail_permanently():
            parsed = Job.from_xcom(job)
            config = parsed.load()
            store_version_link(parsed.versions)
            for version in versions_of(parsed, config):
                store_run_link(config, lineage.record_clip(config, version, run_tags()))

    @task.branch(**RETRIES)
    def compare_champion(job: dict[str, Any]) -> str | None:
        """Register the best models and return the next task: `approve`, `promote`, or none."""
        from vecap_tasks import lineage

        with fail_permanently():
            parsed = Job.from_xcom(job)
            config = parsed.load()
            decisions = [lineage.decide_champion(config, version) for version in versions_of(parsed, config)]
            summary = "\n\n".join(map(str, decisions))
            log.info("%s", summary)
            get_current_context()["ti"].xcom_push("summary", summary)
            if not any(decision.moves for decision in decisions):
                return None
            return "approve" if config.evaluation.champion.approval else "promote"

    approve = ApprovalOperator(
        task_id="approve",
        subject="Promote this model to champion?",
        body="{{ ti.xcom_pull(task_ids='compare_champion', key='summary') }}",
        **RETRIES,
    )

    @model_link_task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS, **RETRIES)
    def promote(job: dict[str, Any]) -> None:
        """Move the alias `champion` if the comparison still supports it."""
        from vecap_tasks import lineage

        with fail_permanently():
            parsed = Job.from_xcom(job)
            config = parsed.load()
            answer = get_current_context()["ti"].xcom_pull(task_ids="approve") or {}
            by = (answer.get("responded_by_user") or {}).get("name", "")
            for version in versions_of(parsed, config):
                decision = lineage.move_champion(config, version, by)
                store_version_link([version.name])
                store_model_link(config, decision.name, decision.version)
                log.info("%s", decision)

    found = find_version()
    compared, promoted = compare_champion(found), promote(found)
    chain(
        stage_group("train", found, pool="gpu", queue="gpu"),
        stage_group("evaluate", found, pool="gpu", queue="gpu"),
        record(found),
        compared,
    )
    compared >> [approve, promoted]
    approve >> promoted

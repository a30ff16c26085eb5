"""The DAG `vecap_clip`: trains and evaluates CLIP, one model for each arm and seed, on a published version."""

from __future__ import annotations

import logging
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, PartitionedAssetTimetable, TriggerRule, chain, get_current_context, task
from vecap_airflow.job import DATASET_VERSION, Job, config_param, groups_param, overrides_param
from vecap_airflow.links import remember_run, run_link_task
from vecap_airflow.tasks import RETRIES, fail_permanently, run_tags, stage_group, versions_of

log = logging.getLogger(__name__)

DOCS = """
**Trains the arms and measures them.** Runs for every version that `vecap_dataset` or `vecap_recaption` publishes,
under the configuration that made it; by hand, give the version. `train` makes one CLIP model for each arm (`alttext`,
`vec`, `vecap`, `mixed`) and seed, `evaluate` measures retrieval and zero-shot classification, and the result stands
in MLflow beside the version that the models were trained on. A version that has its results is left as it is.

`judge` registers the best model and compares it with the one that has the alias `champion`: if it is better beyond its
interval, `crown` moves the alias. With `evaluate.champion.approval` in the configuration (or as an override of one
run) `approve` asks a person first, under *Required actions*; a rejection leaves the alias.
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
        "version": Param(
            None,
            type=["null", "string"],
            title="Version",
            description="The published version to train on, such as `2026-01-01-r2`. A run that a version started "
            "takes that one.",
            section="What to run",
        ),
        "config": config_param(),
        "overrides": overrides_param(),
        "groups": groups_param(4),
    },
) as dag:

    @task(**RETRIES)
    def find_version() -> dict[str, Any]:
        """Return the version that the triggering event tells of, else the one that the parameters name."""
        from vecap_tasks.core.stage import load_stage
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import published, read_version
        from vecap_tasks.errors import ConfigError

        context = get_current_context()
        events = [event for found in context["triggering_asset_events"].values() for event in found]
        params = context["params"]
        with fail_permanently():
            if events:
                extra = events[-1].extra
                job = Job.read(extra["config"], extra["overrides"], [extra["version"]])
            else:
                name = params["version"] or context["dag_run"].partition_key
                if not name:
                    raise ConfigError("the run was started by no version and names none; trigger it with a `version`")
                job = Job.read(params["config"], params["overrides"], [name])
            config = job.load()
            store = Store(config.resolve(config.root))
            for name in job.versions:
                version = read_version(store, config.dataset, name)
                if published(store, version) is None:
                    raise ConfigError(f"version {name} is not published yet; run vecap_dataset for it first")
                if load_stage("assemble", config, version).fingerprint != version.fingerprint:
                    raise ConfigError(
                        f"{job.config} with the overrides given makes another revision than {name}; "
                        f"give the overrides that made {name}, or undo what was changed in the file since"
                    )
            return job.to_xcom()

    @run_link_task(**RETRIES)
    def record(job: dict[str, Any]) -> None:
        """Record the models and their results in MLflow, with the version that they were trained on."""
        from vecap_tasks import lineage

        with fail_permanently():
            wanted = Job.from_xcom(job)
            config = wanted.load()
            for version in versions_of(wanted, config):
                remember_run(config, lineage.record_clip(config, version, run_tags()))

    @task.branch(**RETRIES)
    def run_quality_gate(job: dict[str, Any]) -> str | None:
        """Register the best models, and say what comes next: a person, the crown, or nothing."""
        from vecap_tasks import lineage

        with fail_permanently():
            wanted = Job.from_xcom(job)
            config = wanted.load()
            decisions = [lineage.decide_champion(config, version) for version in versions_of(wanted, config)]
            said = "\n\n".join(map(str, decisions))
            log.info("%s", said)
            get_current_context()["ti"].xcom_push("said", said)
            if not any(decision.moves for decision in decisions):
                return None
            return "approve" if config.evaluate.champion.approval else "crown"

    approve = ApprovalOperator(
        task_id="approve",
        subject="Is this model to become the champion?",
        body="{{ ti.xcom_pull(task_ids='judge', key='said') }}",
        **RETRIES,
    )

    @task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS, **RETRIES)
    def crown(job: dict[str, Any]) -> None:
        """Move the alias, if the comparison still says so."""
        from vecap_tasks import lineage

        with fail_permanently():
            wanted = Job.from_xcom(job)
            config = wanted.load()
            answer = get_current_context()["ti"].xcom_pull(task_ids="approve") or {}
            by = (answer.get("responded_by_user") or {}).get("name", "")
            for version in versions_of(wanted, config):
                log.info("%s", lineage.move_champion(config, version, by))

    found = find_version()
    judged, crowned = run_quality_gate(found), crown(found)
    chain(
        stage_group("train", found, pool="gpu", queue="gpu"),
        stage_group("evaluate", found, pool="gpu", queue="gpu"),
        record(found),
        judged,
    )
    judged >> [approve, crowned]
    approve >> crowned

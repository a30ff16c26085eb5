"""The tasks that the DAGs are wired from. Each imports the stage's code when it runs, never when a DAG is parsed.

A shard passes between tasks as `version/shard`, so that one mapped task takes shards of any version of the job.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import TaskGroup, TriggerRule, XComArg, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from vecap_airflow.job import DATASET_VERSION, Job, split
from vecap_airflow.links import (
    remember_report,
    remember_run,
    remember_versions,
    report_link_task,
    run_link_task,
    version_link_task,
)
from vecap_tasks.errors import ConfigError, GateFailed, PermanentError, VecapError, format_error

if TYPE_CHECKING:
    from vecap_tasks.config import Config
    from vecap_tasks.core.stage import Stage
    from vecap_tasks.core.version import Version

log = logging.getLogger(__name__)

RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
}
_CHATTY = ("great_expectations", "distributed", "mlflow", "alembic", "botocore", "urllib3")


@contextmanager
def fail_permanently() -> Iterator[None]:
    """End the task, without another try, by the one line of an error that trying again cannot mend."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    except PermanentError as error:
        raise AirflowFailException(format_error(error)) from None


def stage_group(
    name: str, job: XComArg, pool: str | None = None, at_once: int | None = None, queue: str | None = None
) -> TaskGroup:
    """Return the tasks of one stage: plan, one mapped task for each group of shards (*at_once* of a run), commit.

    The mapped tasks go to *pool*, and with an executor that has queues to the workers of *queue*.
    """
    options: dict[str, Any] = {} if pool is None else {"pool": pool}
    if queue is not None:
        options["queue"] = queue
    if at_once is not None:
        options["max_active_tis_per_dagrun"] = at_once
    with TaskGroup(name) as group:
        planned = plan.override(task_id="plan")(name, job)
        done = run.override(task_id="run", **options).partial(stage=name, job=job).expand(shards=planned)
        ends = run_quality_gate if name == "quality" else commit
        done >> ends.override(task_id="commit")(name, job)
    return group


@task(**RETRIES)
def plan(stage: str, job: dict[str, Any]) -> list[list[str]]:
    """Return what is still to be done, in groups; none where another run, or an earlier version, did it all."""
    from vecap_tasks.core.executor import prepare

    with fail_permanently():
        todo = []
        for version, work in _stages(stage, Job.from_xcom(job)):
            prepare(work, lambda n, total, name=version.name: log.info("%s: %d of %d parts read", name, n, total))
            shards = work.plan()
            state = f"{len(shards)} shards to do" if shards else "nothing to do, it is there already"
            log.info("%s %s: %s", stage, version.name, state)
            todo += [f"{version.name}/{shard}" for shard in shards]
        return split(todo, get_current_context()["params"]["groups"])


@version_link_task(map_index_template="{{ shards_label }}", **RETRIES)
def run(stage: str, job: dict[str, Any], shards: list[str]) -> None:
    """Do a group of shards on the Dask workers; what an earlier try of this task finished is not done again."""
    from vecap_tasks.core.executor import run_shards

    context: dict[str, Any] = get_current_context()  # type: ignore[assignment]
    context["shards_label"] = shards[0] if len(shards) == 1 else f"{shards[0]} … {shards[-1]}"
    remember_versions(sorted({name.partition("/")[0] for name in shards}))
    with fail_permanently():
        for version, work in _stages(stage, Job.from_xcom(job)):
            if work.manifest() is not None:
                log.info("%s %s: nothing to do, it is published", stage, version.name)
                continue
            done = {receipt.shard for receipt in work.receipts()}
            own = [name.removeprefix(f"{version.name}/") for name in shards if name.startswith(f"{version.name}/")]
            todo = [shard for shard in own if shard not in done]
            label = f"{stage} {version.name}"
            if todo:
                run_shards(work, todo, lambda n, total, label=label: log.info("%s: %d of %d shards", label, n, total))


@version_link_task(trigger_rule=TriggerRule.NONE_FAILED, **RETRIES)
def commit(stage: str, job: dict[str, Any]) -> list[str]:
    """Write the stage's manifest: from here on the stage exists. Returns the versions that have it."""
    remember_versions(job["versions"])
    with fail_permanently():
        for version, work in _stages(stage, Job.from_xcom(job)):
            _commit(version, work)
    return list(job["versions"])


@report_link_task(trigger_rule=TriggerRule.NONE_FAILED, **RETRIES)
def run_quality_gate(stage: str, job: dict[str, Any]) -> list[str]:
    """Let the gate judge the crawl, and write the manifest where it passes. The report is kept in both cases."""
    remember_versions(job["versions"])
    with fail_permanently():
        for version, work in _stages(stage, Job.from_xcom(job)):
            try:
                _commit(version, work)
            except GateFailed as error:
                _keep_report(version, work, format_error(error))
                raise
            _keep_report(version, work, None)
    return list(job["versions"])


def _commit(version: Version, work: Stage) -> None:
    manifest = work.commit()
    counters = ", ".join(f"{key} {n:,}" for key, n in manifest.counters.items() if "." not in key)
    log.info("%s %s: manifest %s (%s)", work.name, version.name, manifest.digest, counters)


def _keep_report(version: Version, work: Stage, refusal: str | None) -> None:
    from vecap_tasks import lineage

    remember_report(work, lineage.keep_gate(work.config, version, refusal, run_tags()))


def publish_each(job: XComArg, assembled: TaskGroup) -> XComArg:
    """Return the task that publishes each version of *job*, once the group *assembled* has committed them."""
    committed = assembled.get_child_by_label("commit")
    return publish.partial(job=job).expand(version=XComArg(committed))


@run_link_task(outlets=[DATASET_VERSION], map_index_template="{{ version_label }}", **RETRIES)
def publish(job: dict[str, Any], version: str) -> dict[str, Any]:
    """Record the version in MLflow and tell the DAGs that wait for versions. Returns what the asset event says."""
    from vecap_tasks import lineage

    context: dict[str, Any] = get_current_context()  # type: ignore[assignment]
    context["version_label"] = version
    remember_versions([version])
    with fail_permanently():
        wanted = Job.from_xcom(job)
        (_, assembled), *_ = _stages("assemble", wanted.with_versions(version))
        manifest = assembled.manifest()
        if manifest is None:
            raise VecapError(f"version {version} is not assembled; clear the task assemble.commit")
        recorded = lineage.record_version(assembled.config, assembled.version, run_tags())
        remember_run(assembled.config, recorded)
        rows = manifest.counters.get("samples", 0)
        said = {"version": version, "digest": manifest.digest, "rows": rows, "mlflow_run": recorded}
        event = context["outlet_events"][DATASET_VERSION]
        event.extra = said | {"config": wanted.config, "overrides": wanted.overrides}
        event.add_partitions(version)
        log.info("published %s: %d rows, %s", version, rows, manifest.digest)
        return said


def run_tags() -> dict[str, str]:
    """Return the tags by which an MLflow run names the task, and its try, that recorded it, and their page."""
    task = get_current_context()["ti"]
    return {
        "airflow.dag_id": task.dag_id,
        "airflow.run_id": task.run_id,
        "airflow.task_id": task.task_id,
        "airflow.try_number": str(task.try_number),
        "airflow.url": task.log_url,
    }


def versions_of(job: Job, config: Config) -> list[Version]:
    """Return the registered versions of *job*. Raises VecapError for a name that is none."""
    from vecap_tasks.core.store import Store
    from vecap_tasks.core.version import read_version

    store = Store(config.resolve(config.root))
    return [read_version(store, config.dataset, name) for name in job.versions]


def _stages(name: str, job: Job) -> list[tuple[Version, Stage]]:
    from vecap_tasks.config import expand_optional
    from vecap_tasks.core.stage import load_stage

    config = job.load()
    versions = versions_of(job, config)
    if load_stage(name, config, versions[0]).on_workers and expand_optional(config.dask.address) is None:
        raise ConfigError("in Airflow the work goes to a Dask cluster: set dask.address")
    return [(version, load_stage(name, config, version)) for version in versions]

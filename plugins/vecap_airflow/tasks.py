"""The tasks of the DAGs. They import stage code when they run, not when a DAG is parsed.

Tasks pass shards as `version/shard`, so that one mapped task can process shards of several versions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import TaskGroup, TriggerRule, XComArg, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

from vecap_airflow.job import DATASET_VERSION, Job, split
from vecap_airflow.links import (
    pages_url,
    report_link_task,
    run_link_task,
    store_report_link,
    store_run_link,
    store_version_link,
    version_link_task,
    version_url,
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
_MAX_LABEL = 250  # characters of Airflow's column
_NOISY_LOGGERS = ("great_expectations", "distributed", "mlflow", "alembic", "botocore", "urllib3")


@contextmanager
def fail_permanently() -> Iterator[None]:
    """Fail the task without retries, with a one-line message, if the body raises PermanentError."""
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    except PermanentError as error:
        raise AirflowFailException(format_error(error)) from None


def stage_group(
    name: str, job: XComArg, pool: str | None = None, max_active: int | None = None, queue: str | None = None
) -> TaskGroup:
    """Return the tasks of one stage: plan, one mapped task per group of shards, commit.

    The mapped tasks use *pool* and, if the executor supports queues, *queue*; at most *max_active* run at a time.
    """
    options: dict[str, Any] = {} if pool is None else {"pool": pool}
    if queue is not None:
        options["queue"] = queue
    if max_active is not None:
        options["max_active_tis_per_dagrun"] = max_active
    with TaskGroup(name) as group:
        planned = plan.override(task_id="plan")(name, job)
        done = run.override(task_id="run", **options).partial(stage=name, job=job).expand(shards=planned)
        last = run_quality_gate if name == "quality" else commit
        done >> last.override(task_id="commit")(name, job)
    return group


@task(show_return_value_in_logs=False, **RETRIES)  # which has the names of all shards
def plan(stage: str, job: dict[str, Any]) -> list[list[str]]:
    """Return the pending shards in groups; none if another run or an earlier version already completed the stage."""
    from vecap_tasks.core.executor import prepare

    with fail_permanently():
        pending = []
        for version, work in _stages(stage, Job.from_xcom(job)):
            with _recorded_failure(work):
                prepare(work)
                shards = work.plan()
            state = f"{len(shards)} shards pending" if shards else "already complete; nothing to do"
            log.info("%s %s: %s", stage, version.name, state)
            pending += [f"{version.name}/{shard}" for shard in shards]
        return split(pending, get_current_context()["params"]["groups"])


@version_link_task(map_index_template="{{ shards_label }}", **RETRIES)
def run(stage: str, job: dict[str, Any], shards: list[str]) -> None:
    """Process a group of shards on the Dask workers, except shards that an earlier attempt completed."""
    from vecap_tasks.core.executor import run_shards

    label = shards[0] if len(shards) == 1 else f"{shards[0]} … {shards[-1]}"
    context: dict[str, Any] = get_current_context()  # type: ignore[assignment]
    context["shards_label"] = label  # at the end of the task, Airflow renders the template
    show_label(label)
    store_version_link(sorted({name.partition("/")[0] for name in shards}))
    with fail_permanently():
        for version, work in _stages(stage, Job.from_xcom(job)):
            if work.manifest() is not None:
                log.info("%s %s: already complete; nothing to do", stage, version.name)
                continue
            done = work.finished()
            prefix = f"{version.name}/"
            own = [name.removeprefix(prefix) for name in shards if name.startswith(prefix)]
            pending = [shard for shard in own if shard not in done]
            if pending:
                with _recorded_failure(work):
                    run_shards(work, pending, show=lambda line: show_label(f"{label}: {line}"))


def show_label(label: str) -> None:
    """Show *label* as the name of the mapped task while it runs, as Airflow shows its `map_index_template` afterwards.

    Airflow has no public function for it. Releases without this message show the label at the end only.
    """
    try:
        from airflow.sdk.execution_time.comms import SetRenderedMapIndex
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS
    except ImportError:
        return
    try:
        SUPERVISOR_COMMS.send(SetRenderedMapIndex(rendered_map_index=label[:_MAX_LABEL]))
    except AirflowRuntimeError as error:  # such as a restart of the API server; the work goes on
        log.debug("cannot show the progress as the name of the task: %s", error)


@version_link_task(trigger_rule=TriggerRule.NONE_FAILED, **RETRIES)
def commit(stage: str, job: dict[str, Any]) -> list[str]:
    """Write the stage's manifest, which completes the stage. Returns the versions."""
    store_version_link(job["versions"])
    with fail_permanently():
        for version, work in _stages(stage, Job.from_xcom(job)):
            _commit(version, work)
    return list(job["versions"])


@report_link_task(trigger_rule=TriggerRule.NONE_FAILED, **RETRIES)
def run_quality_gate(stage: str, job: dict[str, Any]) -> list[str]:
    """Evaluate the quality gate and, if it passes, write the manifest. Records the report in both cases."""
    store_version_link(job["versions"])
    with fail_permanently():
        for version, work in _stages(stage, Job.from_xcom(job)):
            try:
                _commit(version, work)
            except GateFailed as error:
                _record_report(version, work, format_error(error))
                raise
            _record_report(version, work, None)
    return list(job["versions"])


def _commit(version: Version, work: Stage) -> None:
    with _recorded_failure(work):
        manifest = work.commit()
    counters = ", ".join(f"{key} {n:,}" for key, n in manifest.counters.items() if "." not in key)
    log.info("%s %s: manifest %s (%s)", work.name, version.name, manifest.digest, counters)


def _record_report(version: Version, work: Stage, error: str | None) -> None:
    from vecap_tasks import lineage

    store_report_link(work, lineage.try_record_gate(work.config, version, error, run_tags()))


def publish_each(job: XComArg, assembled: TaskGroup) -> XComArg:
    """Return the mapped task that publishes each version of *job* after the group *assembled*."""
    committed = assembled.get_child_by_label("commit")
    return publish.partial(job=job).expand(version=XComArg(committed))


@run_link_task(outlets=[DATASET_VERSION], map_index_template="{{ version_label }}", **RETRIES)
def publish(job: dict[str, Any], version: str) -> dict[str, Any]:
    """Record the version in MLflow and emit the asset event. Returns the event's version, digest, rows and run."""
    from vecap_tasks import lineage

    context: dict[str, Any] = get_current_context()  # type: ignore[assignment]
    context["version_label"] = version
    store_version_link([version])
    with fail_permanently():
        parsed = Job.from_xcom(job)
        (_, assembled), *_ = _stages("assemble", parsed.with_versions(version))
        manifest = assembled.manifest()
        if manifest is None:
            raise VecapError(f"version {version} is not assembled; clear the task assemble.commit")
        run_id = lineage.record_version(assembled.config, assembled.version, run_tags())
        store_run_link(assembled.config, run_id)
        rows = manifest.counters.get("samples", 0)
        result = {"version": version, "digest": manifest.digest, "rows": rows, "mlflow_run": run_id}
        event = context["outlet_events"][DATASET_VERSION]
        page = version_url(version)
        event.extra = result | {"page": page, "config": parsed.config, "overrides": parsed.overrides}
        event.add_partitions(version)
        log.info("published %s: %d samples, manifest %s", version, rows, manifest.digest)
        return result


def run_tags() -> dict[str, str]:
    """Return the MLflow tags that identify the current task attempt, and VeCap's pages, for links in descriptions."""
    from vecap_tasks.lineage.mlflow_notes import PAGES_TAG

    task = get_current_context()["ti"]
    return {
        "airflow.dag_id": task.dag_id,
        "airflow.run_id": task.run_id,
        "airflow.task_id": task.task_id,
        "airflow.try_number": str(task.try_number),
        "airflow.url": task.log_url,
        PAGES_TAG: pages_url(),
    }


def versions_of(job: Job, config: Config) -> list[Version]:
    """Return the registered versions of *job*. Raises VecapError for an unknown version."""
    from vecap_tasks.core.store import Store
    from vecap_tasks.core.version import read_version

    store = Store(config.resolve(config.root))
    return [read_version(store, config.dataset, name) for name in job.versions]


def _recorded_failure(work: Stage) -> AbstractContextManager[None]:
    """Return a context that records an exception, with the log of this task, for the page of the version."""
    from vecap_tasks.core.stage_records import recorded_failure

    return recorded_failure(work.store, work.folder, get_current_context()["ti"].log_url)


def _stages(name: str, job: Job) -> list[tuple[Version, Stage]]:
    from vecap_tasks.config import expand_optional
    from vecap_tasks.core.stage import load_stage

    config = job.load()
    versions = versions_of(job, config)
    if load_stage(name, config, versions[0]).on_workers and expand_optional(config.dask.address) is None:
        raise ConfigError("Airflow tasks require a Dask cluster; set dask.address")
    return [(version, load_stage(name, config, version)) for version in versions]

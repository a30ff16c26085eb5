"""The DAG `vecap_tune`: compares captions and shares of AltText by small trainings on a published version."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, Param, chain, get_current_context, task
from vecap_airflow.job import Job, config_param, groups_param, overrides_param, version_param
from vecap_airflow.links import run_link_task, store_run_link, store_version_link
from vecap_airflow.tasks import RETRIES, fail_permanently, run_tags, stage_group, versions_of

log = logging.getLogger(__name__)

DOCS = """
**Recommends captions and a share of AltText for your own data.** Trains a small CLIP model for each mix of the section
`tune` and each seed, as long as the budget allows, and evaluates all of them. `plan_trainings` measures the speed and
chooses the number of epochs. The dataset version and its models do not change.

- **Result**: the button *MLflow run* on `recommend`, with the curve, its intervals and the recommended setting. The log
  has the recommendation, too.
"""

with DAG(
    "vecap_tune",
    description="A published dataset version in, a recommended mix of AltText and captions out",
    doc_md=DOCS,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["vecap"],
    params={
        "version": version_param("Published version to train on, such as 2026-01-01 or 2026-01-01-r2."),
        "budget": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            title="Budget (hours)",
            description="Hours of one device for all trainings together (tune.budget). Empty: as configured.",
        ),
        "config": config_param(),
        "overrides": overrides_param(),
        "groups": groups_param(100),
    },
) as dag:

    @task(pool="gpu", queue="gpu", **RETRIES)
    def plan_trainings() -> dict[str, Any]:
        """Return the job with the overrides of the trainings; measures the speed of one for a few steps."""
        from vecap_tasks.errors import ConfigError
        from vecap_tasks.tune.plan import overrides, planned_epochs

        params = get_current_context()["params"]
        with fail_permanently():
            if not params["version"]:
                raise ConfigError("no version: trigger the run with the parameter `version`")
            budget = [] if params["budget"] is None else [f"tune.budget={params['budget']}"]
            given = [*(params["overrides"] or ()), *budget]
            settings = Job.read(params["config"], given).load().tune
            job = Job.read(params["config"], [*given, *overrides(settings)], [params["version"]])
            config = job.load()
            for section in ("train", "evaluate"):
                config.section(section)
            (version,) = versions_of(job, config)
            store_version_link([version.name])
            epochs = planned_epochs(config, settings, version)
            return Job.read(params["config"], [*given, *overrides(settings, epochs)], [version.name]).to_xcom()

    @run_link_task(**RETRIES)
    def recommend(job: dict[str, Any]) -> None:
        """Record the comparison and the recommended mix in MLflow."""
        from vecap_tasks.lineage.tuning import record_tuning
        from vecap_tasks.tune.report import read_tuning, recommendation

        with fail_permanently():
            parsed = Job.from_xcom(job)
            config = parsed.load()
            (version,) = versions_of(parsed, config)
            store_version_link([version.name])
            tuning = read_tuning(config, config.tune, version)
            store_run_link(config, record_tuning(config, config.tune, version, tuning, run_tags()))
            log.info("%s", recommendation(tuning))

    planned = plan_trainings()
    chain(
        planned,
        stage_group("train", planned, pool="gpu", queue="gpu"),
        stage_group("evaluate", planned, pool="gpu", queue="gpu"),
        recommend(planned),
    )

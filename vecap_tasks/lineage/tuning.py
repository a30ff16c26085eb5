"""Records the results of `vecap tune` as a run of the MLflow experiment `vecap/<dataset>/tune`."""

from __future__ import annotations

from vecap_tasks.config import Config, TuneConfig
from vecap_tasks.core.manifest import digest
from vecap_tasks.core.mlflow_tracking import airflow_tags, open_tracking, retry_recording
from vecap_tasks.core.temporary import temporary_folder
from vecap_tasks.core.version import Version
from vecap_tasks.tune.report import Tuning, format_markdown, plot


@retry_recording
def record_tuning(
    config: Config, settings: TuneConfig, version: Version, tuning: Tuning, tags: dict[str, str] | None = None
) -> str:
    """Record table, chart and recommendation, unless they are recorded. Return the id of the run."""
    from mlflow.entities import Metric

    with open_tracking(config) as tracking:
        experiment = tracking.experiment(version.dataset, "tune")
        key = digest({"tuning": tuning.to_json(), "settings": settings.model_dump(mode="json")})
        if (found := tracking.find_run(experiment, key, version.name)) is not None:
            return str(found.info.run_id)
        best = tuning.recommended
        all_tags = airflow_tags() | (tags or {}) | {
            "vecap.kind": "tuning", "vecap.dataset": version.dataset, "vecap.version": version.name,
            "vecap.digest": key, "vecap.recommended": best.texts,
        }  # fmt: skip
        with tracking.new_run(experiment, all_tags, f"{version.name} mixes") as run_id:
            sections = {"tune": settings, "train": config.training}
            tracking.params(run_id, {name: section.model_dump(mode="json") for name, section in sections.items()})
            at = tracking.client.get_run(run_id).info.start_time
            metrics = []
            for point in tuning.points:
                step = round(1000 * point.alttext_share)  # so that MLflow draws the curve
                values = {**point.figures, "score": point.score}
                metrics += [Metric(f"{point.caption}.{name}", value, at, step) for name, value in values.items()]
            tracking.metrics(run_id, metrics)
            with temporary_folder() as folder:
                (folder / "tune.json").write_text(tuning.to_json())
                (folder / "tune.md").write_text(format_markdown(tuning))
                plot(tuning, folder / "tune.png")
                tracking.client.log_artifacts(run_id, str(folder))
            tracking.describe(run_id, format_markdown(tuning))
            return tracking.finish(run_id)

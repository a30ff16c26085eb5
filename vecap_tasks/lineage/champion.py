"""The champion: the registered model with the alias `champion`, and when the alias moves to another model.

The best model of an evaluation is registered. It becomes the champion if there is none, or if it is significantly
better in the chosen metric: the confidence interval of the paired difference, over the same queries, is above zero. The
champion's answers to these queries are stored in MLflow. If the models cannot be compared, the alias does not move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.mlflow_tracking import Tracking, is_server, open_tracking, retry_recording
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import read_file
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.evaluate.results import Results, RunFigures, read_results
from vecap_tasks.lineage.mlflow_lookup import MODEL_TAG
from vecap_tasks.lineage.models import recorded_answers

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from vecap_tasks.evaluate.bootstrap import Difference
    from vecap_tasks.evaluate.metrics import Answers

ALIAS = "champion"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the alias moves to `version` of the registered model `name`, and a one-line `reason`."""

    name: str
    version: str
    moves: bool
    reason: str

    def __str__(self) -> str:
        outcome = "new champion" if self.moves else "champion unchanged"
        return f"{self.name} version {self.version}: {outcome}: {self.reason}"


@retry_recording
def decide_champion(config: Config, version: Version) -> Decision:
    """Register the best model of *version* and return whether it should become the champion; does not move the alias.

    Raises ConfigError if the metric was not measured, and VecapError if the version is not evaluated and recorded.
    """
    evaluate = load_stage("evaluate", config, version)
    manifest = evaluate.manifest()
    if manifest is None:
        raise VecapError(f"version {version.name} has not been evaluated; run `vecap evaluate`")
    results = read_results(evaluate.store, manifest)
    metric = _metric(config, results)
    best = max(results.runs, key=lambda run: run.figures[metric])
    shard = f"{best.arm}-{best.seed}"
    with open_tracking(config) as tracking:
        run = _run(tracking, version, manifest.digest, shard)
        name = f"{version.dataset}-clip"
        candidate = _register(tracking, name, run, best, metric)
        champion = next((model for model in _versions(tracking, name) if ALIAS in model.aliases), None)
        if champion is None:
            reason = f"first champion ({metric} = {100 * best.figures[metric]:.1f} %)"
            return Decision(name, str(candidate.version), True, reason)
        if champion.version == candidate.version:
            return Decision(name, str(candidate.version), False, "already the champion")
        answers = _stored_answers(evaluate.store, manifest, f"{shard}/answers.parquet")
        moves, reason = _compare(
            recorded_answers(tracking, champion.run_id), answers, metric, str(champion.version), config
        )
        return Decision(name, str(candidate.version), moves, reason)


@retry_recording
def move_champion(config: Config, version: Version, approved_by: str = "") -> Decision:
    """Call `decide_champion`, and move the alias if it decides so. *approved_by* is stored as a tag of the version."""
    decision = decide_champion(config, version)
    if decision.moves:
        with open_tracking(config) as tracking:
            client = tracking.client
            client.set_model_version_tag(decision.name, decision.version, "vecap.champion", decision.reason)
            if approved_by:
                client.set_model_version_tag(decision.name, decision.version, "vecap.approved_by", approved_by)
            client.set_registered_model_alias(decision.name, ALIAS, decision.version)
    return decision


def _metric(config: Config, results: Results) -> str:
    metric = config.evaluation.champion.metric or next(iter(results.titles))
    if metric not in results.titles:
        raise ConfigError(
            f"evaluate.champion.metric: {metric} was not measured; give one of {', '.join(results.titles)}"
        )
    return metric


def _compare(
    champion_answers: tuple[Answers, ...] | None,
    candidate_answers: tuple[Answers, ...],
    metric: str,
    champion: str,
    config: Config,
) -> tuple[bool, str]:
    """Compare the candidate's answers with the champion's, query by query."""
    from vecap_tasks.evaluate.bootstrap import paired_differences
    from vecap_tasks.evaluate.metrics import metrics_of

    if champion_answers is None:
        return False, f"champion version {champion} has no answers in MLflow; evaluate its dataset version again"
    target = next(item for item in metrics_of((a.set, a.task) for a in candidate_answers) if item.key == metric)
    before, after = (
        next((item for item in answers if (item.set, item.task) == (target.set, target.task)), None)
        for answers in (champion_answers, candidate_answers)
    )
    if before is None or after is None or before.digest != after.digest:
        return (
            False,
            f"champion version {champion} was evaluated on another set for {metric}; evaluate both on the same set",
        )
    interval = paired_differences([after], [before], config.evaluation.bootstrap)[metric]
    significance = "significant" if interval.low > 0 else "not significant"
    return interval.low > 0, f"{metric} {_points(interval)} compared with champion version {champion}, {significance}"


def _points(interval: Difference) -> str:
    return f"{100 * interval.difference:+.1f} points ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _run(tracking: Tracking, version: Version, digest: str, shard: str) -> Run:
    """Return the run of the model *shard* that `record_clip` recorded for the evaluation's *digest*."""
    experiment = tracking.client.get_experiment_by_name(f"vecap/{version.dataset}/clip")
    arms = None if experiment is None else tracking.find_run(experiment.experiment_id, digest, version.name)
    run = None if arms is None else tracking.find_child(arms, shard)
    if run is None:
        raise VecapError(f"the models of version {version.name} are not in MLflow; run `vecap evaluate` again")
    return run


def _register(tracking: Tracking, name: str, run: Run, best: RunFigures, metric: str) -> ModelVersion:
    """Return the version of the registered model *name* for the model of *run*; create it if needed."""
    from mlflow.exceptions import MlflowException

    client = tracking.client
    if (existing := _registered(tracking, name, run)) is not None:
        return existing
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    tags: dict[str, Any] = {key: value for key, value in run.data.tags.items() if key.startswith("vecap.")}
    tags[MODEL_TAG] = model.model_id
    # Without a server, MLflow resolves models:/ through global state, which may point elsewhere.
    source = f"models:/{model.model_id}" if is_server(tracking.uri) else model.artifact_location
    figure = f"{metric} {100 * best.figures[metric]:.1f} %"
    created = client.create_model_version(
        name,
        source,
        run.info.run_id,
        tags=tags,
        description=f"Arm {best.arm}, seed {best.seed}, version {tags['vecap.version']}: {figure}.",
        model_id=model.model_id,
    )
    first = _registered(tracking, name, run) or created
    if first.version != created.version:  # another process registered it meanwhile
        client.delete_model_version(name, created.version)
    return first


def _registered(tracking: Tracking, name: str, run: Run) -> ModelVersion | None:
    """Return the first version of the registered model *name* for *run*."""
    found = (version for version in _versions(tracking, name) if version.run_id == run.info.run_id)
    return min(found, key=lambda version: int(version.version), default=None)


def _versions(tracking: Tracking, name: str) -> list[ModelVersion]:
    """Return the versions of the registered model with their aliases."""
    versions = tracking.client.search_model_versions(f"name='{name}'")
    return [tracking.client.get_model_version(name, version.version) for version in versions]


def _stored_answers(store: Store, manifest: Manifest, path: str) -> tuple[Answers, ...]:
    from vecap_tasks.evaluate.metrics import read_answers

    return read_answers(read_file(store, manifest, path), path)

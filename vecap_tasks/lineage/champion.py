"""The champion: the registered model with the alias `champion`, and when the alias moves to another model.

The best model of an evaluation is registered. It becomes the champion if there is none, or if it is significantly
better: the confidence interval of the paired difference, over the same queries, is above zero. By default, models are
compared by the mean recall@1 of both retrieval directions. The champion's answers to these queries are stored in
MLflow. If the models cannot be compared, the alias does not move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
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
from vecap_tasks.lineage.mlflow_notes import PAGE_TAG
from vecap_tasks.lineage.models import recorded_answers

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from vecap_tasks.evaluate.bootstrap import Difference
    from vecap_tasks.evaluate.metrics import Answers

ALIAS = "champion"
_RECALL_AT_1 = ("image_to_text_1", "text_to_image_1")


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


@dataclass(frozen=True, slots=True)
class Criterion:
    """What models are compared by: the mean of the metrics `keys`."""

    keys: tuple[str, ...]

    def __str__(self) -> str:
        return self.keys[0] if len(self.keys) == 1 else f"mean of {' and '.join(self.keys)}"

    def value(self, figures: Mapping[str, float]) -> float:
        """Return the value for a model with *figures* by key, from 0 to 1."""
        return fmean(figures[key] for key in self.keys)


def champion_criterion(metric: str | None, results: Results) -> Criterion:
    """Return the criterion of the setting `evaluate.champion.metric`.

    None is the mean recall@1 of both directions on the first retrieval set; without such a set, the first metric.
    Raises ConfigError if *metric* was not measured.
    """
    if metric is None:
        retrieval = next((size for size in results.sets if size.task == "retrieval"), None)
        if retrieval is None:
            return Criterion((next(iter(results.titles)),))
        prefix = f"{retrieval.name}." if retrieval.name else ""
        return Criterion(tuple(f"{prefix}{key}" for key in _RECALL_AT_1))
    if metric not in results.titles:
        raise ConfigError(
            f"evaluate.champion.metric: {metric} was not measured; give one of {', '.join(results.titles)}"
        )
    return Criterion((metric,))


def registered_name(dataset: str) -> str:
    """Return the name of the registered model of *dataset*."""
    return f"{dataset}-clip"


def champion_name(dataset: str) -> str:
    """Return the MLflow name of the champion of *dataset*."""
    return f"models:/{registered_name(dataset)}@{ALIAS}"


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
    criterion = champion_criterion(config.evaluation.champion.metric, results)
    best = max(results.runs, key=lambda run: criterion.value(run.figures))
    figure = f"{criterion} = {100 * criterion.value(best.figures):.1f} %"
    shard = f"{best.arm}-{best.seed}"
    with open_tracking(config) as tracking:
        run = _run(tracking, version, manifest.digest, shard)
        name = registered_name(version.dataset)
        candidate = _register(tracking, name, run, best, figure)
        champion = next((model for model in _versions(tracking, name) if ALIAS in model.aliases), None)
        if champion is None:
            return Decision(name, str(candidate.version), True, f"first champion ({figure})")
        if champion.version == candidate.version:
            return Decision(name, str(candidate.version), False, "already the champion")
        answers = _stored_answers(evaluate.store, manifest, f"{shard}/answers.parquet")
        known = recorded_answers(tracking, champion.run_id)
        moves, reason = _compare(known, answers, criterion, str(champion.version), config)
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


def _compare(
    champion_answers: Sequence[Answers] | None,
    candidate_answers: Sequence[Answers],
    criterion: Criterion,
    champion: str,
    config: Config,
) -> tuple[bool, str]:
    """Compare the candidate's answers with the champion's, query by query."""
    import numpy as np

    from vecap_tasks.evaluate.bootstrap import difference, resample
    from vecap_tasks.evaluate.metrics import figures_of, metrics_of

    if champion_answers is None:
        return False, f"champion version {champion} has no answers in MLflow; evaluate its dataset version again"
    tasks = [m for m in metrics_of((a.set, a.task) for a in candidate_answers) if m.key in criterion.keys]
    before, after = (
        [item for task in tasks for item in answers if (item.set, item.task) == (task.set, task.task)]
        for answers in (champion_answers, candidate_answers)
    )
    if [item.digest for item in before] != [item.digest for item in after]:
        return (
            False,
            f"champion version {champion} was evaluated on another set for {criterion}; evaluate both on the same set",
        )
    settings = config.evaluation.bootstrap
    rounds = resample([before, after], settings)
    values = np.mean([rounds[key] for key in criterion.keys], axis=0)
    observed = criterion.value(figures_of(after)) - criterion.value(figures_of(before))
    interval = difference(observed, values[:, 1] - values[:, 0], settings.confidence)
    significance = "significant" if interval.low > 0 else "not significant"
    reason = f"{criterion} {_points(interval)} compared with champion version {champion}, {significance}"
    return interval.low > 0, reason


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


def _register(tracking: Tracking, name: str, run: Run, best: RunFigures, figure: str) -> ModelVersion:
    """Return the version of the registered model *name* for the model of *run*; create it if needed.

    Its description has *figure*, the value that it was chosen by.
    """
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
    page = tags.get(PAGE_TAG)
    lineage = f"\n\n[Lineage in VeCap]({page})" if page else ""
    created = client.create_model_version(
        name,
        source,
        run.info.run_id,
        tags=tags,
        description=f"Arm {best.arm}, seed {best.seed}, version {tags['vecap.version']}: {figure}.{lineage}",
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
    from mlflow.exceptions import MlflowException

    found = []
    for version in tracking.client.search_model_versions(f"name='{name}'"):
        try:
            found.append(tracking.client.get_model_version(name, version.version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # it was a duplicate that its process has deleted
                raise
    return found


def _stored_answers(store: Store, manifest: Manifest, path: str) -> tuple[Answers, ...]:
    from vecap_tasks.evaluate.metrics import read_answers

    return read_answers(read_file(store, manifest, path), path)

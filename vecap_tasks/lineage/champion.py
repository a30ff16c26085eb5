"""The champion: the registered model that has the alias `champion`, and when the alias moves to another.

The best model of an evaluation is registered. It becomes the champion where there is none, or where it is better in the
chosen metric beyond the interval of the paired difference: both answered the same queries, and the answers of the
champion lie in MLflow beside its figures. Where they cannot be compared the alias stays.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import Config
from vecap_tasks.core.mlflow_tracking import Tracking, is_server, open_tracking
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.evaluate.results import Results, RunFigures, read_results
from vecap_tasks.lineage.mlflow_lookup import MODEL_TAG
from vecap_tasks.lineage.models import FOLDER

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from vecap_tasks.evaluate.bootstrap import Difference
    from vecap_tasks.evaluate.metrics import Answers

ALIAS = "champion"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the alias moves to `version` of the registered model `name`; `reason` says why, in one sentence."""

    name: str
    version: str
    moves: bool
    reason: str

    def __str__(self) -> str:
        what = "becomes" if self.moves else "does not become"
        return f"{self.name} version {self.version} {what} the champion: {self.reason}"


def decide_champion(config: Config, version: Version) -> Decision:
    """Register the best model of *version* and say whether it is to be the champion; the alias is left as it is.

    Raises ConfigError for a metric that was not measured, VecapError where the version is not evaluated and recorded.
    """
    evaluate = load_stage("evaluate", config, version)
    manifest = evaluate.manifest()
    if manifest is None:
        raise VecapError(f"version {version.name} has no evaluate yet; run `vecap evaluate` first")
    results = read_results(evaluate.store, manifest)
    metric = _metric(config, results)
    best = max(results.runs, key=lambda run: run.figures[metric])
    shard = f"{best.arm}-{best.seed}"
    with open_tracking(config) as tracking:
        run = _run(tracking, version, f"{manifest.digest[:32]}/{shard}")
        name = f"{version.dataset}-clip"
        candidate = _registered(tracking, name, run, best, metric)
        champion = next((one for one in _versions(tracking, name) if ALIAS in one.aliases), None)
        if champion is None:
            reason = f"it is the first, with {metric} {100 * best.figures[metric]:.1f} %"
            return Decision(name, str(candidate.version), True, reason)
        if champion.version == candidate.version:
            return Decision(name, str(candidate.version), False, "it is the champion already")
        own = _stored_answers(evaluate.store, manifest.file(f"{shard}/answers.parquet"))
        moves, reason = _judge(_answers(tracking, champion), own, metric, str(champion.version), config)
        return Decision(name, str(candidate.version), moves, reason)


def move_champion(config: Config, version: Version, approved_by: str = "") -> Decision:
    """Decide as `decide_champion` does, now, and move the alias if so. *approved_by* is kept with the version."""
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
    metric = config.evaluate.champion.metric or next(iter(results.titles))
    if metric not in results.titles:
        raise ConfigError(
            f"evaluate.champion.metric: {metric} was not measured; give one of {', '.join(results.titles)}"
        )
    return metric


def _judge(
    theirs: tuple[Answers, ...] | None, own: tuple[Answers, ...], metric: str, champion: str, config: Config
) -> tuple[bool, str]:
    """Compare the candidate's answers with the champion's, query by query."""
    from vecap_tasks.evaluate.bootstrap import difference, resample
    from vecap_tasks.evaluate.metrics import figures_of, metrics_of

    who = f"version {champion}, the champion,"
    if theirs is None:
        return False, f"{who} has no answers in MLflow to compare with; evaluate its version again"
    wanted = next(one for one in metrics_of((a.set, a.task) for a in own) if one.key == metric)
    pair = [
        next((one for one in answers if (one.set, one.task) == (wanted.set, wanted.task)), None)
        for answers in (theirs, own)
    ]
    before, after = pair
    if before is None or after is None or before.digest != after.digest:
        return False, f"{who} was measured on another set for {metric}; evaluate its version on this one"
    settings = config.evaluate.bootstrap
    rounds = resample([[before], [after]], settings)[metric]
    observed = figures_of([after])[metric] - figures_of([before])[metric]
    found = difference(observed, rounds[:, 1] - rounds[:, 0], settings.confidence)
    beyond = "beyond" if found.low > 0 else "not beyond"
    said = f"its {metric} differs from that of {who} by {_points(found)}, {beyond} the interval"
    return found.low > 0, said


def _points(found: Difference) -> str:
    return f"{100 * found.difference:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _run(tracking: Tracking, version: Version, digest: str) -> Run:
    """Return the run of the model whose evaluation has *digest*, as `record_clip` tags it."""
    experiment = tracking.client.get_experiment_by_name(f"vecap/{version.dataset}/clip")
    run = None if experiment is None else tracking.find_run(experiment.experiment_id, digest)
    if run is None:
        raise VecapError(f"the models of version {version.name} are not in MLflow yet; run `vecap evaluate` again")
    return run


def _registered(tracking: Tracking, name: str, run: Run, best: RunFigures, metric: str) -> ModelVersion:
    """Return the version of the registered model *name* that is the model of *run*, made where there is none."""
    from mlflow.exceptions import MlflowException

    client = tracking.client
    found = next((one for one in _versions(tracking, name) if one.run_id == run.info.run_id), None)
    if found is not None:
        return found
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    tags: dict[str, Any] = {key: value for key, value in run.data.tags.items() if key.startswith("vecap.")}
    tags[MODEL_TAG] = model.model_id
    # Outside a server, MLflow resolves models:/ through global state, which may point elsewhere.
    source = f"models:/{model.model_id}" if is_server(tracking.uri) else model.artifact_location
    figure = f"{metric} {100 * best.figures[metric]:.1f} %"
    return client.create_model_version(
        name,
        source,
        run.info.run_id,
        tags=tags,
        description=f"Arm {best.arm}, seed {best.seed}, of version {tags['vecap.version']}: {figure}.",
        model_id=model.model_id,
    )


def _versions(tracking: Tracking, name: str) -> list[ModelVersion]:
    """Return the versions of the registered model, each with its aliases."""
    found = tracking.client.search_model_versions(f"name='{name}'")
    return [tracking.client.get_model_version(name, one.version) for one in found]


def _answers(tracking: Tracking, champion: ModelVersion) -> tuple[Answers, ...] | None:
    """Return what the champion answered, from its run in MLflow; None where that has no answers."""
    from vecap_tasks.evaluate.metrics import FILE, read_answers

    client = tracking.client
    place = f"{FOLDER}/{FILE}"
    if not any(one.path == place for one in client.list_artifacts(champion.run_id, FOLDER)):
        return None
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
        file = Path(client.download_artifacts(champion.run_id, place, folder))
        return read_answers(file.read_bytes(), f"{place} of run {champion.run_id}")


def _stored_answers(store: Store, place: str) -> tuple[Answers, ...]:
    from vecap_tasks.evaluate.metrics import read_answers

    return read_answers(store.read(place), place)

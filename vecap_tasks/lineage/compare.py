"""Paired comparison of two trained models on the evaluation sets that both answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from vecap_tasks.config import BootstrapConfig, Config
from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import read_file
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.bootstrap import Difference, paired_differences
from vecap_tasks.evaluate.metrics import FILE, Answers, figures_of, metrics_of, read_answers
from vecap_tasks.lineage.mlflow_lookup import find_recorded, is_recorded
from vecap_tasks.lineage.models import recorded_answers
from vecap_tasks.lineage.walk import find_training, is_model


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model and its answers in one evaluation. `ties` is the setting `evaluate.ties` of the evaluation."""

    name: str
    answers: tuple[Answers, ...]
    ties: str | None

    def tasks(self) -> set[tuple[str, str, str]]:
        """Return set, digest of the set, and task of all answers."""
        return {(answers.set, answers.digest, answers.task) for answers in self.answers}


@dataclass(frozen=True, slots=True)
class PairedMetric:
    """A metric of both models, from 0 to 1, and first − second. `images` are resampled with all their queries."""

    key: str
    title: str
    images: int
    queries: int
    first: float
    second: float
    difference: Difference


@dataclass(frozen=True, slots=True)
class Comparison:
    """The metrics of two models on the sets that both answered; `warnings` are lines about what is not compared."""

    first: str
    second: str
    metrics: tuple[PairedMetric, ...]
    confidence: float
    rounds: int
    warnings: tuple[str, ...]


def compare(config: Config, first: str, second: str) -> Comparison:
    """Compare the models *first* and *second*: RUN or VERSION/RUN such as `mixed-0`, or a name in MLflow.

    Raises VecapError if one does not exist or has not been evaluated, or if no evaluation set is the same.
    """
    candidates = [find_evaluated(config, name) for name in (first, second)]
    # A model may have been evaluated several times; the newest evaluations come first.
    pairs = list(product(*candidates))
    one, other = next((pair for pair in pairs if pair[0].tasks() & pair[1].tasks()), pairs[0])
    common = [answers for answers in one.answers if (answers.set, answers.digest, answers.task) in other.tasks()]
    if not common:
        raise VecapError(
            f"{one.name} and {other.name} were evaluated on different sets ({_describe(one)}; {_describe(other)}); "
            "evaluate both with the same settings of `evaluate`"
        )
    settings = config.evaluate.bootstrap if config.evaluate else BootstrapConfig()
    by_task = {(answers.set, answers.task): answers for answers in other.answers}
    matching = [by_task[answers.set, answers.task] for answers in common]
    return Comparison(
        one.name,
        other.name,
        tuple(_metrics(common, matching, settings)),
        settings.confidence,
        settings.rounds,
        tuple(_warnings(one, other)),
    )


def _metrics(first: Sequence[Answers], second: Sequence[Answers], settings: BootstrapConfig) -> Iterable[PairedMetric]:
    figures = figures_of(first), figures_of(second)
    differences = paired_differences(first, second, settings)
    for answers in first:
        for metric in metrics_of([(answers.set, answers.task)]):
            yield PairedMetric(
                metric.key,
                f"{metric.set} {metric.title}".lstrip(),
                int(answers.image.max()) + 1,
                len(answers.hits),
                figures[0][metric.key],
                figures[1][metric.key],
                differences[metric.key],
            )


def _warnings(first: Evaluated, second: Evaluated) -> Iterable[str]:
    left_out = sorted({_set_name(name, task) for name, _, task in first.tasks() ^ second.tasks()})
    if left_out:
        yield f"not compared, because only one model was evaluated on the same set: {', '.join(left_out)}"
    if first.ties != second.ties:
        yield f"evaluate.ties differs: {first.ties} and {second.ties}; models with many ties cannot be compared"


def _describe(model: Evaluated) -> str:
    return ", ".join(sorted({f"{_set_name(name, task)} {digest[:12]}" for name, digest, task in model.tasks()}))


def _set_name(name: str, task: str) -> str:
    return name or ("zero_shot" if task == "zero_shot" else "retrieval")


def find_evaluated(config: Config, name: str) -> list[Evaluated]:
    """Return the model *name* with the answers of each of its evaluations, the newest first.

    Raises VecapError if it does not exist, or if it has not been evaluated.
    """
    if is_recorded(name):
        return [_recorded(config, name)]
    version, _, run = name.rpartition("/")
    if not is_model(run):
        raise VecapError(
            f"{name} is not the name of a model; give RUN or VERSION/RUN, e.g. mixed-0 or 2026-01-01/mixed-0, or a "
            "model in MLflow, e.g. models:/NAME@ALIAS"
        )
    store = Store(config.resolve(config.root))
    training = find_training(config, store, version, run)
    label = f"{training.version.name}/{run}"
    train = read_manifest(store, training.folder)
    if train is None:
        raise VecapError(f"the training of {label} is not finished; run `vecap train` to resume it")
    root = f"{training.version.folder}/evaluate"
    found = [read_manifest(store, f"{root}/{folder}") for folder in store.folders(root)]
    evaluations = [m for m in found if m is not None and any(item.digest == train.digest for item in m.inputs)]
    if not evaluations:
        raise VecapError(
            f"model {label} has not been evaluated; run `vecap evaluate --version {training.version.name}`"
        )
    evaluations.sort(key=lambda manifest: str(manifest.provenance["created"]), reverse=True)
    return [_stored(store, manifest, label, run) for manifest in evaluations]


def _stored(store: Store, manifest: Manifest, label: str, run: str) -> Evaluated:
    path = f"{run}/{FILE}"
    return Evaluated(label, read_answers(read_file(store, manifest, path), path), manifest.config.get("ties"))


def _recorded(config: Config, name: str) -> Evaluated:
    """Return the model or run *name* in MLflow with its recorded answers."""
    with open_tracking(config, create=False) as tracking:
        model = find_recorded(tracking, name)
        if "vecap.run" not in model.tags:
            raise VecapError(f"{name} is not a trained model; give a model, or the run of a model")
        answers = recorded_answers(tracking, model.run)
        if answers is None:
            raise VecapError(f"{name} has no answers in MLflow; evaluate its dataset version again")
        parent = tracking.client.get_run(model.run).data.tags.get("mlflow.parentRunId")
        params = tracking.client.get_run(parent).data.params if parent else {}
    label = f"{model.name} ({model.tags['vecap.version']}/{model.tags['vecap.run']})"
    return Evaluated(label, answers, params.get("evaluate.ties"))

"""MLflow queries: models and runs by name, artifacts compared with manifests, and versions in use."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import FileEntry, Manifest
from vecap_tasks.core.mlflow_tracking import NoDatabase, Tracking, open_tracking
from vecap_tasks.core.temporary import temporary_folder
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.tree import Node
from vecap_tasks.train.checkpoint import parse_run

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion


FILES_TAG = "vecap.lists"  # tag of a version's run: the sha256 of files that are not in a manifest
MODEL_TAG = "vecap.model"  # tag of a registered model version: the id of its logged model
_MODEL_ID = re.compile(r"(?:models:/)?(m-[0-9a-f]{32})")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")
_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A run or model in MLflow with its tags. `model` is the id of the logged model, None for a run without one.

    `run` is the id of the run, for a model the one that recorded it.
    """

    name: str
    tags: Mapping[str, str]
    model: str | None
    run: str


def is_recorded(name: str) -> bool:
    """Return whether *name* is an MLflow name: a model id, a run id or `models:/…`."""
    return any(pattern.fullmatch(name) for pattern in (_MODEL_ID, _RUN_ID, _REGISTERED))


def find_recorded(tracking: Tracking, name: str) -> RegisteredModel:
    """Return the model or run *name*: a model id (`m-…`, `models:/m-…`), a run id, or a registered model.

    A registered model is `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or `models:/NAME` for its latest version.
    Raises VecapError if it does not exist.
    """
    from mlflow.exceptions import MlflowException

    try:
        model_id, label = _MODEL_ID.fullmatch(name), name
        if model_id is None and (registered := _REGISTERED.fullmatch(name)):
            version = _registered_version(tracking, registered)
            label = f"models:/{version.name}/{version.version}"
            model_id = _logged_model_id(version)
            if model_id is None:
                raise VecapError(f"{label} has no linked logged model; give a model id, m-…")
        if model_id is not None:
            model = tracking.client.get_logged_model(model_id.group(1))
            return RegisteredModel(label, dict(model.tags), model.model_id, str(model.source_run_id))
        run = tracking.client.get_run(name)
    except MlflowException as error:
        raise VecapError(f"MLflow at {tracking.uri} has no {name}; look up the name in the MLflow UI") from error
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    return RegisteredModel(name, dict(run.data.tags), outputs[0].model_id if outputs else None, name)


def _registered_version(tracking: Tracking, name: re.Match[str]) -> ModelVersion:
    client = tracking.client
    if name["alias"]:
        return client.get_model_version_by_alias(name["name"], name["alias"])
    if name["version"]:
        return client.get_model_version(name["name"], name["version"])
    versions = client.search_model_versions(f"name = '{name['name']}'")
    if not versions:
        raise VecapError(
            f"MLflow at {tracking.uri} has no registered model {name['name']}; look up the name in the MLflow UI"
        )
    return max(versions, key=lambda version: int(version.version))


def _logged_model_id(version: ModelVersion) -> re.Match[str] | None:
    """Return the logged model's id from *version*; MLflow's database has no column for it."""
    candidates = (version.model_id, version.source, version.tags.get(MODEL_TAG))
    return next((match for text in candidates if (match := _MODEL_ID.fullmatch(text or ""))), None)


def registered_model_exists(tracking: Tracking, name: str) -> bool:
    """Return whether MLflow has the registered model *name*, such as `models:/NAME@ALIAS`."""
    from mlflow.exceptions import MlflowException

    match = _REGISTERED.fullmatch(name)
    try:
        return match is not None and _registered_version(tracking, match) is not None
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # of the model, of the alias
            return False
        raise


def find_model(tracking: Tracking, version: Version, shard: str, train: str) -> LoggedModel | None:
    """Return the logged model *shard* (arm-seed) of *version* from the training with the digest *train*, or None.

    Raises VecapError for an invalid *shard*.
    """
    arm, seed = parse_run(shard)
    experiment = tracking.client.get_experiment_by_name(f"vecap/{version.dataset}/clip")
    if experiment is None:
        return None
    tags = {"vecap.kind": "model", "vecap.version": version.name, "vecap.run": f"{arm}-{seed}", "vecap.train": train}
    query = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    runs = tracking.client.search_runs([experiment.experiment_id], query)
    outputs = [output for run in runs if run.outputs is not None for output in run.outputs.model_outputs]
    return tracking.client.get_logged_model(outputs[0].model_id) if outputs else None


def model_copy(tracking: Tracking, model: str, train: Manifest, shard: str) -> Node:
    """Return the node of MLflow's copy of a model, compared with the files of *shard* in the manifest *train*."""
    expected = {
        entry.path.removeprefix(f"{shard}/"): entry for entry in train.files if entry.path.startswith(f"{shard}/")
    }
    uri = tracking.client.get_logged_model(model).artifact_location  # `models:/` uses the process's default MLflow
    return _compare_copy(tracking, f"models:/{model}", uri, expected)


def version_copy(tracking: Tracking, version: Version, manifests: Mapping[str, Manifest]) -> Node:
    """Return the node of MLflow's copy of a version (reports, card, file lists), compared with the manifests."""
    run = tracking.find_version(version.dataset, version.name, manifests["assemble"].digest)
    if run is None:
        return Node("mlflow", version.name, None, unchecked=f"MLflow at {tracking.uri} has no run of the version")
    expected = {
        f"{stage}/{entry.path}": entry
        for stage, manifest in manifests.items()
        for entry in (*manifest.files, *manifest.attachments)
    }
    for stage, manifest in manifests.items():
        body = manifest.to_json()
        sha256 = hashlib.sha256(body).hexdigest()
        expected[f"{stage}/manifest.json"] = FileEntry("manifest.json", len(body), None, sha256)
    for path, sha256 in json.loads(run.data.tags.get(FILES_TAG, "{}")).items():
        expected[path] = FileEntry(path, 0, None, sha256)
    # Data and large files are not copied to MLflow.
    return _compare_copy(tracking, f"run {run.info.run_id}", f"runs:/{run.info.run_id}/", expected, partial=True)


def _compare_copy(
    tracking: Tracking, name: str, uri: str, expected: Mapping[str, FileEntry], *, partial: bool = False
) -> Node:
    """Compare MLflow's files at *uri* with *expected*, by path. With *partial*, files may be missing in MLflow."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    problems = []
    files, size = 0, 0
    with temporary_folder() as folder:
        try:
            root = Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=tracking.uri))
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            return Node("mlflow", name, None, unchecked=f"cannot download the files from MLflow: {reason}")
        for path, entry in sorted(expected.items()):
            file = root / path
            if not file.is_file():
                problems += [] if partial else [f"{path} is missing in MLflow"]
                continue
            files, size = files + 1, size + file.stat().st_size
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                    problems.append(f"{path} changed in MLflow: its sha256 differs from the manifest")
    return Node("mlflow", name, None, "copy of the files", tuple(problems), files=files, bytes=size)


def needed_by_mlflow(config: Config, versions: Mapping[str, str]) -> dict[str, str]:
    """Return which of the published *versions* (name to digest) MLflow still needs, by name, with the reason.

    A version is needed if a run other than its own uses it as a dataset. Deleted runs count, because they can be
    restored until `mlflow gc`. A version that is not recorded in this MLflow is needed too, because its models may be
    in another one. Raises VecapError if MLflow does not respond.
    """
    if not versions:
        return {}
    try:
        with open_tracking(config, create=False) as tracking:
            return _needed_versions(config.dataset, tracking, versions)
    except NoDatabase as error:
        return dict.fromkeys(versions, f"not recorded in MLflow: {error}")


def _needed_versions(dataset: str, tracking: Tracking, versions: Mapping[str, str]) -> dict[str, str]:
    needed: dict[str, str] = {}
    experiments = _experiments(tracking)
    version_experiments = [id for id, name in experiments.items() if name == f"vecap/{dataset}/versions"]
    recorded = {
        (run.data.tags.get("vecap.version"), run.data.tags.get("vecap.digest"))
        for run in _runs(tracking, version_experiments, "")
    }
    for name, digest in sorted(versions.items()):
        for run in _runs(tracking, list(experiments), f"dataset.name = '{dataset}/{name}'"):
            if run.data.tags.get("vecap.kind") != "version":
                needed[name] = f"used by MLflow run {run.info.run_id}"
                break
        else:
            if (name, digest) not in recorded:
                needed[name] = f"not recorded in MLflow at {tracking.uri}; its models may be in another MLflow"
    return needed


def _experiments(tracking: Tracking) -> dict[str, str]:
    """Return the names of all experiments by id, including deleted ones."""
    from mlflow.entities import ViewType

    names: dict[str, str] = {}
    token: str | None = None
    while True:
        page: Any = tracking.client.search_experiments(ViewType.ALL, _PAGE_SIZE, page_token=token)
        names |= {str(experiment.experiment_id): experiment.name for experiment in page}
        token = page.token
        if not token:
            return names


def _runs(tracking: Tracking, experiments: list[str], query: str) -> Iterator[Run]:
    from mlflow.entities import ViewType

    token: str | None = None
    while experiments:
        page: Any = tracking.client.search_runs(experiments, query, ViewType.ALL, _PAGE_SIZE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return

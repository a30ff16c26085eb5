"""What MLflow has: models and runs by name, copies checked against manifests, and versions in use."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import FileEntry, Manifest
from vecap_tasks.core.mlflow_tracking import Tracking, open_tracking
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.tree import Node

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


LISTS = "vecap.lists"  # a tag of a version's run: the sha256 of what recording itself wrote
MODEL_TAG = "vecap.model"  # a tag of a registered version: the id of its logged model
_MODEL_ID = re.compile(r"(?:models:/)?(m-[0-9a-f]{32})")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")
_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A run or model in MLflow. `tags` are those that recording left; `model` is its id, None for a run without one."""

    name: str
    tags: Mapping[str, str]
    model: str | None


def is_recorded(name: str) -> bool:
    """Say whether *name* is one that MLflow gives: a model's or run's id, or `models:/…`."""
    return any(pattern.fullmatch(name) for pattern in (_MODEL_ID, _RUN_ID, _REGISTERED))


def find_recorded(tracking: Tracking, name: str) -> RegisteredModel:
    """Return what MLflow has under *name*.

    That is a model's id (`m-…`, `models:/m-…`), a run's id, or a registered model: `models:/NAME@ALIAS`,
    `models:/NAME/VERSION`, or `models:/NAME`, whose latest version is meant. Raises VecapError where there is none.
    """
    from mlflow.exceptions import MlflowException

    try:
        identity, shown = _MODEL_ID.fullmatch(name), name
        if identity is None and (registered := _REGISTERED.fullmatch(name)):
            version = _registered(tracking, registered)
            shown = f"models:/{version.name}/{version.version}"
            identity = _logged_model(version)
            if identity is None:
                raise VecapError(f"{shown} has no linked logged model; give the id of a model, m-…")
        if identity is not None:
            model = tracking.client.get_logged_model(identity.group(1))
            return RegisteredModel(shown, dict(model.tags), model.model_id)
        run = tracking.client.get_run(name)
    except MlflowException as error:
        raise VecapError(f"MLflow at {tracking.uri} has no {name}; look for it in the UI") from error
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    return RegisteredModel(name, dict(run.data.tags), outputs[0].model_id if outputs else None)


def _registered(tracking: Tracking, name: re.Match[str]) -> ModelVersion:
    client = tracking.client
    if name["alias"]:
        return client.get_model_version_by_alias(name["name"], name["alias"])
    if name["version"]:
        return client.get_model_version(name["name"], name["version"])
    versions = client.search_model_versions(f"name = '{name['name']}'")
    if not versions:
        raise VecapError(f"MLflow at {tracking.uri} has no registered model {name['name']}; look for it in the UI")
    return max(versions, key=lambda version: int(version.version))


def _logged_model(version: ModelVersion) -> re.Match[str] | None:
    """Return the logged model's id that *version* names; MLflow's database has no column for it."""
    named = (version.model_id, version.source, version.tags.get(MODEL_TAG))
    return next((found for text in named if (found := _MODEL_ID.fullmatch(text or ""))), None)


def model_copy(tracking: Tracking, model: str, train: Manifest, shard: str) -> Node:
    """Return the node of MLflow's copy of a model: each of its files against those that *train* made for *shard*."""
    wanted = {
        entry.path.removeprefix(f"{shard}/"): entry for entry in train.files if entry.path.startswith(f"{shard}/")
    }
    place = tracking.client.get_logged_model(model).artifact_location  # `models:/` asks the process's own MLflow
    return _copy(tracking, f"models:/{model}", place, wanted)


def version_copy(tracking: Tracking, version: Version, manifests: Mapping[str, Manifest]) -> Node:
    """Return the node of what MLflow keeps of a version: its reports, card and lists, against the manifests."""
    run = tracking.find_version(version.dataset, version.name, manifests["assemble"].digest)
    if run is None:
        return Node("mlflow", version.name, None, unchecked=f"MLflow at {tracking.uri} has no run of the version")
    wanted = {
        f"{stage}/{entry.path}": entry
        for stage, manifest in manifests.items()
        for entry in (*manifest.files, *manifest.attachments)
    }
    for stage, manifest in manifests.items():
        body = manifest.to_json()
        wanted[f"{stage}/manifest.json"] = FileEntry("manifest.json", len(body), None, hashlib.sha256(body).hexdigest())
    for path, sha256 in json.loads(run.data.tags.get(LISTS, "{}")).items():
        wanted[path] = FileEntry(path, 0, None, sha256)
    # Data is not copied; what else a stage made is, unless it is large.
    return _copy(tracking, f"run {run.info.run_id}", f"runs:/{run.info.run_id}/", wanted, partly=True)


def _copy(tracking: Tracking, name: str, uri: str, wanted: Mapping[str, FileEntry], *, partly: bool = False) -> Node:
    """Compare what MLflow has at *uri* with *wanted*, by path; *partly*: not everything was copied."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    problems = []
    files, size = 0, 0
    with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
        try:
            place = Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=tracking.uri))
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            return Node("mlflow", name, None, unchecked=f"MLflow does not give its files: {reason}")
        for path, entry in sorted(wanted.items()):
            file = place / path
            if not file.is_file():
                problems += [] if partly else [f"{path} is missing in MLflow"]
                continue
            files, size = files + 1, size + file.stat().st_size
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                    problems.append(f"{path} was changed in MLflow: its sha256 is not the manifest's")
    return Node("mlflow", name, None, "its copy of the files", tuple(problems), files=files, bytes=size)


def needed_by_mlflow(config: Config, versions: Mapping[str, str]) -> dict[str, str]:
    """Return which of the published *versions* (name to digest) must stay because of MLflow, by name, and why.

    One that a run names as its dataset, but for the version's own run, stays: a model was trained or measured on it;
    a run that is deleted in MLflow can be restored until `mlflow gc`, and counts. So does one that this MLflow has
    not recorded: its models may be recorded in another. Raises VecapError where MLflow does not answer.
    """
    if not versions:
        return {}
    needed: dict[str, str] = {}
    with open_tracking(config) as tracking:
        experiments = _experiments(tracking)
        own = [number for number, name in experiments.items() if name == f"vecap/{config.dataset}/versions"]
        recorded = {
            (run.data.tags.get("vecap.version"), run.data.tags.get("vecap.digest")) for run in _runs(tracking, own, "")
        }
        for name, digest in sorted(versions.items()):
            for run in _runs(tracking, list(experiments), f"dataset.name = '{config.dataset}/{name}'"):
                if run.data.tags.get("vecap.kind") != "version":
                    needed[name] = f"the run {run.info.run_id} in MLflow used it"
                    break
            else:
                if (name, digest) not in recorded:
                    needed[name] = f"MLflow at {tracking.uri} has no run of it, its models may be in another"
    return needed


def _experiments(tracking: Tracking) -> dict[str, str]:
    """Return the names of all experiments by id, deleted ones among them."""
    from mlflow.entities import ViewType

    found: dict[str, str] = {}
    token: str | None = None
    while True:
        page: Any = tracking.client.search_experiments(ViewType.ALL, _PAGE_SIZE, page_token=token)
        found |= {str(one.experiment_id): one.name for one in page}
        token = page.token
        if not token:
            return found


def _runs(tracking: Tracking, experiments: list[str], query: str) -> Iterator[Run]:
    from mlflow.entities import ViewType

    token: str | None = None
    while experiments:
        page: Any = tracking.client.search_runs(experiments, query, ViewType.ALL, _PAGE_SIZE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return

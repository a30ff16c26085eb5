"""What MLflow has: models and runs by the names it gives them, and its copies of files, checked against manifests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vecap_tasks.dataset.manifest import FileEntry, Manifest
from vecap_tasks.dataset.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.tree import Node
from vecap_tasks.tracking import Tracking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

LISTS = "vecap.lists"  # a tag of a version's run: the sha256 of what recording itself wrote
MODEL_TAG = "vecap.model"  # a tag of a registered version: the id of its logged model
_MODEL_ID = re.compile(r"(?:models:/)?(m-[0-9a-f]{32})")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run or model in MLflow. `tags` are those that recording left; `model` is its id, None for a run without one."""

    name: str
    tags: Mapping[str, str]
    model: str | None


def is_recorded(name: str) -> bool:
    """Say whether *name* is one that MLflow gives: a model's or run's id, or `models:/…`."""
    return any(pattern.fullmatch(name) for pattern in (_MODEL_ID, _RUN_ID, _REGISTERED))


def find_recorded(tracking: Tracking, name: str) -> Recorded:
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
            return Recorded(shown, dict(model.tags), model.model_id)
        run = tracking.client.get_run(name)
    except MlflowException as error:
        raise VecapError(f"MLflow at {tracking.uri} has no {name}; look for it in the UI") from error
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    return Recorded(name, dict(run.data.tags), outputs[0].model_id if outputs else None)


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

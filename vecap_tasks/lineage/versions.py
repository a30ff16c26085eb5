"""Records published versions and quality gate reports as MLflow runs."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import yaml

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.mlflow_tracking import airflow_tags, clean, open_tracking, retry_recording, source_inputs
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.temporary import temporary_folder
from vecap_tasks.core.verify import read_file, read_verified_manifest
from vecap_tasks.core.version import DATASET_STAGES, Version
from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.lineage import mlflow_notes
from vecap_tasks.lineage.mlflow_lookup import FILES_TAG
from vecap_tasks.lineage.mlflow_notes import (
    RunLink,
    gate_note,
    page_tags,
    run_page,
    training_runs_page,
    version_note,
)
from vecap_tasks.outages import no_waiting

log = logging.getLogger(__name__)

CONFIGURATION = "config.yaml"
REPORT = "report"
_MAX_ARTIFACT_BYTES = 16 << 20
_DATA_SUFFIXES = (".parquet", ".tar")


@retry_recording
def record_version(config: Config, version: Version, tags: Mapping[str, str] | None = None) -> str:
    """Record *version* in MLflow, unless it is recorded, and return the run id.

    The run has the configuration and the digests of models and prompts as parameters, the counters of the stages as
    metrics, the sources as input datasets, and as artifacts the list of crawl files, manifests, sample sheet, dataset
    card and quality report. It starts with the first stage and ends when the version was published. *tags* are added
    to the run. Raises VecapError if the version is not published or MLflow does not respond.
    """
    from mlflow.entities import Metric

    store = Store(config.resolve(config.root))
    manifests = {stage: read_verified_manifest(store, f"{version.folder}/{stage}") for stage in DATASET_STAGES}
    published = manifests["assemble"]
    name = f"{version.dataset}/{version.name}"
    version_tags = {
        "vecap.kind": "version",
        "vecap.dataset": version.dataset,
        "vecap.version": version.name,
        "vecap.interval": version.interval,
        "vecap.revision": str(version.revision),
        "vecap.digest": published.digest,
        "vecap.fingerprint": version.fingerprint,
        "vecap.code": str(published.provenance.get("code", "unknown")),
        "vecap.release": str(published.provenance.get("vecap", "unknown")),
    }
    with open_tracking(config) as tracking:
        experiment = tracking.experiment(version.dataset, "versions")
        existing = tracking.find_run(experiment, published.digest, version.name)
        if existing is not None:
            return str(existing.info.run_id)
        client = tracking.client
        all_tags = airflow_tags() | dict(tags or {}) | version_tags
        all_tags |= page_tags(all_tags, f"versions/{version.name}")
        start, end = min(map(start_time, manifests.values())), commit_time(published)
        with tracking.new_run(experiment, all_tags, version.name, start) as run_id:
            run = RunLink(experiment, run_id)
            tracking.params(run_id, {stage: manifest.config for stage, manifest in manifests.items()})
            metrics = [
                Metric(clean(f"{stage}.{counter}"), float(count), commit_time(manifest), 0)
                for stage, manifest in manifests.items()
                for counter, count in manifest.counters.items()
            ]
            tracking.metrics(run_id, metrics)
            crawl_files = run_page(experiment, run_id, mlflow_notes.NAME)
            tracking.inputs(run_id, source_inputs([item for m in manifests.values() for item in m.inputs], crawl_files))
            training_runs = training_runs_page(tracking.experiment(version.dataset, "clip"), name)
            with temporary_folder() as folder:
                collect(store, manifests, folder)
                links = (run.link(f"Version {name}"), f"[Models trained on it]({training_runs})")
                mlflow_notes.write_crawl_files(folder, manifests["crawl"], links)
                (folder / CONFIGURATION).write_text(_configuration(published), encoding="utf-8")
                client.set_tag(run_id, FILES_TAG, _digests(folder))
                client.log_artifacts(run_id, str(folder))
            tracking.describe(run_id, version_note(name, manifests, run, training_runs, all_tags))
            return tracking.finish(run_id, end=end)


def commit_time(manifest: Manifest) -> int:
    """Return when the stage of *manifest* was committed, in milliseconds since the epoch."""
    return int(1000 * datetime.fromisoformat(manifest.provenance["created"]).timestamp())


def start_time(manifest: Manifest) -> int:
    """Return when the stage of *manifest* started, or was committed if that is not recorded; in milliseconds."""
    started = manifest.provenance.get("started")
    return int(1000 * datetime.fromisoformat(started).timestamp()) if started else commit_time(manifest)


def collect(store: Store, manifests: Mapping[str, Manifest], folder: Path) -> None:
    """Copy the manifests of stages, and their files other than data, into one subfolder of *folder* per stage."""
    for stage, manifest in manifests.items():
        (folder / stage).mkdir(parents=True)
        (folder / stage / "manifest.json").write_bytes(manifest.to_json())
        for entry in (*manifest.files, *manifest.attachments):
            if entry.path.endswith(_DATA_SUFFIXES) or entry.bytes > _MAX_ARTIFACT_BYTES or "_stats.json" in entry.path:
                continue
            target = folder / stage / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_file(store, manifest, entry.path))


def _configuration(published: Manifest) -> str:
    """Return the configuration of the version as YAML, with environment variables unexpanded."""
    return yaml.safe_dump(published.provenance.get("config", {}), sort_keys=False, allow_unicode=True)


def _digests(folder: Path) -> str:
    """Return the sha256, by name and as JSON, of the recorded files that are not in a manifest."""
    names = (mlflow_notes.NAME, mlflow_notes.TABLE, CONFIGURATION)
    return json.dumps({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})


@retry_recording
def record_gate(
    config: Config, version: Version, failure: str | None = None, tags: Mapping[str, str] | None = None
) -> str:
    """Record the quality gate's report on *version* in MLflow, and return the link to its page.

    *failure* is the gate's message, None if it passed. A recorded report is kept, but that of an earlier failure is
    replaced. Raises VecapError if there is no report or MLflow does not respond.
    """
    from mlflow.entities import Metric

    stage = load_stage("quality", config, version)
    manifest = stage.manifest() if failure is None else None
    folder = stage.folder if manifest is None else manifest.location  # of another revision if it was reused
    pages = list(_files(stage.store, f"{folder}/{REPORT}"))
    if not pages or (manifest is None and failure is None):
        raise VecapError(f"no quality report in {stage.store.root}/{folder}; run `vecap quality` first")
    gate_tags = {
        "vecap.kind": "gate",
        "vecap.dataset": version.dataset,
        "vecap.version": version.name,
        "vecap.interval": version.interval,
        "vecap.passed": str(failure is None).lower(),
        "vecap.digest": manifest.digest if manifest is not None else f"refused/{version.name}/{stage.fingerprint}",
    }
    with open_tracking(config) as tracking:
        experiment = tracking.experiment(version.dataset, "gate")
        existing = tracking.find_run(experiment, gate_tags["vecap.digest"], version.name)
        if existing is not None:
            return run_page(experiment, str(existing.info.run_id), f"{REPORT}/index.html")
        all_tags = airflow_tags() | dict(tags or {}) | gate_tags
        all_tags |= page_tags(all_tags, f"versions/{version.name}")
        name = version.name if failure is None else f"{version.name} failed"
        with tracking.new_run(experiment, all_tags, name) as run_id:
            tracking.params(run_id, {"quality": stage.identity()})
            if manifest is not None:
                now = int(time.time() * 1000)
                metrics = [Metric(clean(counter), float(n), now, 0) for counter, n in manifest.counters.items()]
                tracking.metrics(run_id, metrics)
            with temporary_folder() as copies:
                for page in pages:
                    target = copies / REPORT / page
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(stage.store.read(f"{folder}/{REPORT}/{page}"))
                tracking.client.log_artifacts(run_id, str(copies))
            note = gate_note(f"{version.dataset}/{version.name}", RunLink(experiment, run_id), failure, all_tags)
            tracking.describe(run_id, note)
            # A run that is not FINISHED is replaced the next time the gate runs.
            run_id = tracking.finish(run_id, "FINISHED" if failure is None else "FAILED")
            return run_page(experiment, run_id, f"{REPORT}/index.html")


def try_record_gate(
    config: Config, version: Version, failure: str | None = None, tags: Mapping[str, str] | None = None
) -> str | None:
    """Call `record_gate`. If it fails, log a warning and return None; the report is also in the store."""
    try:
        with no_waiting():
            return record_gate(config, version, failure, tags)
    except VecapError as error:
        log.warning("cannot record the quality report in MLflow: %s", format_error(error))
        return None


def _files(store: Store, folder: str, subfolder: str = "") -> Iterator[str]:
    """Yield the files in *folder* and its subfolders, relative to it."""
    path = f"{folder}/{subfolder}" if subfolder else folder
    for name in store.files(path):
        yield f"{subfolder}{name}"
    for name in store.folders(path):
        yield from _files(store, folder, f"{subfolder}{name}/")

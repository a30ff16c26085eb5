"""A published version as a run of the experiment `vecap/<dataset>/versions`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from vecap_tasks.config import Config
from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.verify import read_sound_manifest
from vecap_tasks.dataset.version import DATASET_STAGES, Version
from vecap_tasks.lineage.tracking import airflow_tags, clean, open_tracking, source_inputs

_LARGEST_ARTIFACT = 16 << 20
_DATA = (".parquet", ".tar")


def record_version(config: Config, version: Version, tags: Mapping[str, str] | None = None) -> str:
    """Record *version* in MLflow, unless its run is there already, and return the run's id.

    The run has the whole configuration with the digests of models and prompts, what the stages counted, the sources
    as input datasets, and as artifacts
    the manifests, the dataset card and the quality report. *tags* are added to those that say what was recorded.
    Raises VecapError when the version is not published or MLflow does not answer.
    """
    from mlflow.entities import Metric

    store = Store(config.resolve(config.root))
    manifests = {stage: read_sound_manifest(store, f"{version.folder}/{stage}") for stage in DATASET_STAGES}
    published = manifests["assemble"]
    said = {
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
        experiment = tracking.experiment(f"vecap/{version.dataset}/versions")
        found = tracking.find_run(experiment, published.digest)
        if found is not None and found.data.tags.get("vecap.version") == version.name:
            return str(found.info.run_id)
        client = tracking.client
        run = client.create_run(experiment, tags=airflow_tags() | dict(tags or {}) | said, run_name=version.name)
        run_id = str(run.info.run_id)
        tracking.params(run_id, {stage: manifest.config for stage, manifest in manifests.items()})
        now = int(time.time() * 1000)
        counted = [
            Metric(clean(f"{stage}.{name}"), float(count), now, 0)
            for stage, manifest in manifests.items()
            for name, count in manifest.counters.items()
        ]
        tracking.metrics(run_id, counted)
        tracking.inputs(run_id, source_inputs([item for m in manifests.values() for item in m.inputs]))
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            collect(store, manifests, Path(folder))
            client.log_artifacts(run_id, folder)
        client.set_terminated(run_id, "FINISHED")
    return run_id


def collect(store: Store, manifests: Mapping[str, Manifest], folder: Path) -> None:
    """Copy the manifests of stages, and their files for people, into *folder*: a folder a stage."""
    for stage, manifest in manifests.items():
        (folder / stage).mkdir(parents=True)
        (folder / stage / "manifest.json").write_bytes(manifest.to_json())
        for entry in (*manifest.files, *manifest.attachments):
            if entry.path.endswith(_DATA) or entry.bytes > _LARGEST_ARTIFACT or "_stats.json" in entry.path:
                continue
            target = folder / stage / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read(manifest.file(entry.path)))

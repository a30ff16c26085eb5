"""A published version as a run of the experiment `vecap/<dataset>/versions`."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from vecap_tasks.config import Config
from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.verify import read_sound_manifest
from vecap_tasks.dataset.version import DATASET_STAGES, Version
from vecap_tasks.lineage import crawl_files
from vecap_tasks.lineage.notes import Place, version_note
from vecap_tasks.lineage.pages import run_page, trained_page
from vecap_tasks.lineage.recorded import LISTS
from vecap_tasks.tracking import airflow_tags, clean, open_tracking, source_inputs

CONFIGURATION = "config.yaml"
_LARGEST_ARTIFACT = 16 << 20
_DATA = (".parquet", ".tar")


def record_version(config: Config, version: Version, tags: Mapping[str, str] | None = None) -> str:
    """Record *version* in MLflow, unless its run is there already, and return the run's id.

    The run has the whole configuration with the digests of models and prompts, what the stages counted, the sources
    as input datasets, and as artifacts the list of crawl files, the manifests, the sample sheet, the dataset card, and
    the gate's report with Great Expectations' pages. *tags* are added to those that say what was recorded.
    Raises VecapError when the version is not published or MLflow does not answer.
    """
    from mlflow.entities import Metric

    store = Store(config.resolve(config.root))
    manifests = {stage: read_sound_manifest(store, f"{version.folder}/{stage}") for stage in DATASET_STAGES}
    published = manifests["assemble"]
    name = f"{version.dataset}/{version.name}"
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
        experiment = tracking.experiment(version.dataset, "versions")
        found = tracking.find_run(experiment, published.digest)
        if found is not None and found.data.tags.get("vecap.version") == version.name:
            return str(found.info.run_id)
        client = tracking.client
        everything = airflow_tags() | dict(tags or {}) | said
        run = client.create_run(experiment, tags=everything, run_name=version.name)
        place = Place(experiment, str(run.info.run_id))
        tracking.params(place.run_id, {stage: manifest.config for stage, manifest in manifests.items()})
        now = int(time.time() * 1000)
        counted = [
            Metric(clean(f"{stage}.{counter}"), float(count), now, 0)
            for stage, manifest in manifests.items()
            for counter, count in manifest.counters.items()
        ]
        tracking.metrics(place.run_id, counted)
        listed = run_page(experiment, place.run_id, crawl_files.NAME)
        tracking.inputs(place.run_id, source_inputs([item for m in manifests.values() for item in m.inputs], listed))
        trained = trained_page(tracking.experiment(version.dataset, "clip"), name)
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            collect(store, manifests, Path(folder))
            links = (place.link(f"The version {name}"), f"[Models trained on it]({trained})")
            crawl_files.write_crawl_files(Path(folder), manifests["crawl"], links)
            (Path(folder) / CONFIGURATION).write_text(_configuration(published), encoding="utf-8")
            client.set_tag(place.run_id, LISTS, _digests(Path(folder)))
            client.log_artifacts(place.run_id, folder)
        tracking.describe(place.run_id, version_note(name, manifests, place, trained, everything))
        client.set_terminated(place.run_id, "FINISHED")
    return place.run_id


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


def _configuration(published: Manifest) -> str:
    """Return the whole configuration under which the version was published; it names variables, never their values."""
    return yaml.safe_dump(published.provenance.get("config", {}), sort_keys=False, allow_unicode=True)


def _digests(folder: Path) -> str:
    """Return the sha256 of the files that recording itself writes, by name, as JSON: no manifest has them."""
    names = (crawl_files.NAME, crawl_files.TABLE, CONFIGURATION)
    return json.dumps({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})

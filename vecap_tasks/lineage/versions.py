"""Published versions and quality gate reports as MLflow runs."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.mlflow_tracking import airflow_tags, clean, open_tracking, source_inputs
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import read_verified_manifest
from vecap_tasks.core.version import DATASET_STAGES, Version
from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.lineage import mlflow_notes
from vecap_tasks.lineage.mlflow_lookup import LISTS
from vecap_tasks.lineage.mlflow_notes import Place, gate_note, run_page, trained_page, version_note

log = logging.getLogger(__name__)

CONFIGURATION = "config.yaml"
_LARGEST_ARTIFACT = 16 << 20
_DATA = (".parquet", ".tar")
REPORT = "report"


def record_version(config: Config, version: Version, tags: Mapping[str, str] | None = None) -> str:
    """Record *version* in MLflow, unless its run is there already, and return the run's id.

    The run has the whole configuration with the digests of models and prompts, what the stages counted, the sources
    as input datasets, and as artifacts the list of crawl files, the manifests, the sample sheet, the dataset card, and
    the gate's report with Great Expectations' pages. *tags* are added to those that say what was recorded.
    Raises VecapError when the version is not published or MLflow does not answer.
    """
    from mlflow.entities import Metric

    store = Store(config.resolve(config.root))
    manifests = {stage: read_verified_manifest(store, f"{version.folder}/{stage}") for stage in DATASET_STAGES}
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
        listed = run_page(experiment, place.run_id, mlflow_notes.NAME)
        tracking.inputs(place.run_id, source_inputs([item for m in manifests.values() for item in m.inputs], listed))
        trained = trained_page(tracking.experiment(version.dataset, "clip"), name)
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            collect(store, manifests, Path(folder))
            links = (place.link(f"The version {name}"), f"[Models trained on it]({trained})")
            mlflow_notes.write_crawl_files(Path(folder), manifests["crawl"], links)
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
    names = (mlflow_notes.NAME, mlflow_notes.TABLE, CONFIGURATION)
    return json.dumps({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})


def record_gate(
    config: Config, version: Version, refusal: str | None = None, tags: Mapping[str, str] | None = None
) -> str:
    """Record the gate's report on the crawl of *version*, and return the link to its page in MLflow.

    *refusal* is the line by which the gate refused the crawl, None where it passed. A report that is there already is
    left; one of an earlier refusal is replaced. Raises VecapError where there is no report, and when MLflow does not
    answer.
    """
    from mlflow.entities import Metric

    stage = load_stage("quality", config, version)
    manifest = stage.manifest() if refusal is None else None
    pages = list(_files(stage.store, f"{stage.folder}/{REPORT}"))
    if not pages or (manifest is None and refusal is None):
        raise VecapError(f"there is no report in {stage.store.root}/{stage.folder}; run `vecap quality` first")
    said = {
        "vecap.kind": "gate",
        "vecap.dataset": version.dataset,
        "vecap.version": version.name,
        "vecap.interval": version.interval,
        "vecap.passed": str(refusal is None).lower(),
        "vecap.digest": manifest.digest if manifest is not None else f"refused/{version.name}/{stage.fingerprint}",
    }
    with open_tracking(config) as tracking:
        experiment = tracking.experiment(version.dataset, "gate")
        found = tracking.find_run(experiment, said["vecap.digest"])
        if found is not None and found.data.tags.get("vecap.version") == version.name:
            return run_page(experiment, str(found.info.run_id), f"{REPORT}/index.html")
        everything = airflow_tags() | dict(tags or {}) | said
        name = version.name if refusal is None else f"{version.name} refused"
        place = Place(
            experiment, str(tracking.client.create_run(experiment, tags=everything, run_name=name).info.run_id)
        )
        tracking.params(place.run_id, {"quality": stage.identity()})
        if manifest is not None:
            now = int(time.time() * 1000)
            counted = [Metric(clean(counter), float(n), now, 0) for counter, n in manifest.counters.items()]
            tracking.metrics(place.run_id, counted)
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            for page in pages:
                target = Path(folder) / REPORT / page
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stage.store.read(f"{stage.folder}/{REPORT}/{page}"))
            tracking.client.log_artifacts(place.run_id, folder)
        note = gate_note(f"{version.dataset}/{version.name}", place, refusal, everything)
        tracking.describe(place.run_id, note)
        # A run that is not FINISHED is replaced when the crawl is judged again.
        tracking.client.set_terminated(place.run_id, "FINISHED" if refusal is None else "FAILED")
    return run_page(experiment, place.run_id, f"{REPORT}/index.html")


def keep_gate(
    config: Config, version: Version, refusal: str | None = None, tags: Mapping[str, str] | None = None
) -> str | None:
    """Record the report as `record_gate` does; where that fails, say so in the log, and return None.

    The report lies in the store in any case, and neither the work nor a refusal waits for MLflow.
    """
    try:
        return record_gate(config, version, refusal, tags)
    except VecapError as error:
        log.warning("the gate's report is not in MLflow: %s", format_error(error))
        return None


def _files(store: Store, folder: str, below: str = "") -> Iterator[str]:
    """Give the files under *folder*, relative to it."""
    place = f"{folder}/{below}" if below else folder
    for name in store.files(place):
        yield f"{below}{name}"
    for name in store.folders(place):
        yield from _files(store, folder, f"{below}{name}/")

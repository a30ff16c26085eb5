"""The quality gate's report on a crawl as a run of the experiment `vecap/<dataset>/gate`, passed or refused.

A crawl that is refused becomes no version: this run is then all that MLflow knows of it.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from vecap_tasks.config import Config
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version
from vecap_tasks.errors import VecapError, one_line
from vecap_tasks.lineage.notes import Place, gate_note
from vecap_tasks.lineage.pages import run_page
from vecap_tasks.stages import load_stage
from vecap_tasks.tracking import airflow_tags, clean, open_tracking

log = logging.getLogger(__name__)

REPORT = "report"


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
        log.warning("the gate's report is not in MLflow: %s", one_line(error))
        return None


def _files(store: Store, folder: str, below: str = "") -> Iterator[str]:
    """Give the files under *folder*, relative to it."""
    place = f"{folder}/{below}" if below else folder
    for name in store.files(place):
        yield f"{below}{name}"
    for name in store.folders(place):
        yield from _files(store, folder, f"{below}{name}/")

"""Which versions MLflow has models of: what `vecap gc` must never delete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import Config
from vecap_tasks.tracking import Tracking, open_tracking

if TYPE_CHECKING:
    from mlflow.entities import Run

_AT_ONCE = 1000


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
        page: Any = tracking.client.search_experiments(ViewType.ALL, _AT_ONCE, page_token=token)
        found |= {str(one.experiment_id): one.name for one in page}
        token = page.token
        if not token:
            return found


def _runs(tracking: Tracking, experiments: list[str], query: str) -> Iterator[Run]:
    from mlflow.entities import ViewType

    token: str | None = None
    while experiments:
        page: Any = tracking.client.search_runs(experiments, query, ViewType.ALL, _AT_ONCE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return

"""Where things stand in MLflow's UI, as links that work inside it wherever it is served, and as addresses from outside.

MLflow's UI opens in its mode `GenAI`; the links ask for the one that shows training runs.
"""

from __future__ import annotations

from urllib.parse import quote

from vecap_tasks.config import Config, expand
from vecap_tasks.tracking import tracking_uri

_MODE = "workflowType=machine_learning"


def run_page(experiment: str, run_id: str, artifact: str = "") -> str:
    """Return the link to a run, or to one of its artifacts, a path such as `quality/report/index.html`."""
    below = f"/artifacts/{quote(artifact)}" if artifact else ""
    return f"#/experiments/{experiment}/runs/{run_id}{below}?{_MODE}"


def model_page(experiment: str, model_id: str) -> str:
    """Return the link to a logged model, `m-…`."""
    return f"#/experiments/{experiment}/models/{model_id}?{_MODE}"


def trained_page(experiment: str, dataset: str) -> str:
    """Return the link to those runs of *experiment* that name *dataset* among their inputs."""
    condition = quote(f"dataset.name = '{dataset}'", safe="")
    return f"#/experiments/{experiment}/runs?searchFilter={condition}&{_MODE}"


def address(config: Config, page: str) -> str | None:
    """Return the whole address of *page* as a browser elsewhere reaches it, None where MLflow is no server.

    Raises ConfigError for a variable that is not set.
    """
    base = expand(config.mlflow.pages) if config.mlflow.pages else tracking_uri(config)
    return f"{base.rstrip('/')}/{page}" if base.startswith(("http://", "https://")) else None

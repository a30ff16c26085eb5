"""Where things stand in MLflow's UI, as links that work inside it wherever it is served, and as addresses from outside.

MLflow's UI opens in its mode `GenAI`; the links ask for the one that shows training runs.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

from vecap_tasks.config import Config, expand_optional
from vecap_tasks.tracking import is_server, tracking_uri

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
    """Return the URL of *page* for a browser: below `mlflow.pages`, or below the server's own URL where that is empty.

    None where MLflow is a file. Raises ConfigError for a variable that is not set.
    """
    base = expand_optional(config.mlflow.pages) or tracking_uri(config)
    if not is_server(base):
        return None
    parts = urlsplit(base)
    public = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))  # a link must not hold a password
    return f"{public.rstrip('/')}/{page}"

"""MLflow access: the URI from the configuration, experiments by name, runs by digest."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from vecap_tasks.config import Config, expand_optional
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.mlflow_database import TEMPORARY_STATUSES, Unavailable, check_server, ensure_database
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.outages import Cause, full_disk, retry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run
    from mlflow.exceptions import MlflowException
    from requests import RequestException

P = ParamSpec("P")
T = TypeVar("T")

# Descriptions on the pages of the experiments.
EXPERIMENTS = {
    "gate": "Quality gate reports, passed or failed: one run per crawl.",
    "versions": "Published dataset versions and their inputs: one run per version.",
    "clip": "Models trained on published versions: one run per evaluation of the arms, with a child run per model. A "
    "model's page links to its training versions, and those to their crawl files.",
    "tune": "Comparisons of captions and shares of AltText by small trainings: one run per comparison.",
}
_NOTE = "mlflow.note.content"
_RECORDED = "vecap.recorded"  # tag: when the run was recorded, in milliseconds since the epoch
_KIND = "custom_model_development"  # MLflow's type for training experiments
_AIRFLOW = {"dag_id": "DAG_ID", "run_id": "DAG_RUN_ID", "task_id": "TASK_ID", "try_number": "TRY_NUMBER"}
_SQLITE = "sqlite:///"
_DEFAULT_STATUS = 500
_PARAM_CHARS = 6000  # MLflow's limit
_PARAMS_PER_REQUEST = 100
_METRICS_PER_REQUEST = 1000
_DATASETS_PER_REQUEST = 100
_ATTEMPTS = 10  # if other processes record the same at the same time
_DELETED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")  # of a run, of a model
_DUPLICATE = ("UNIQUE constraint failed", "duplicate key", "Duplicate entry")  # SQLite, PostgreSQL, MySQL
_DIGEST_CHARS = 32  # MLflow takes at most 36 of a sha256's 64; the dataset's source has the full digest
_NAME_CHARS = 500
_INVALID_NAME_CHARS = re.compile(r"[^A-Za-z0-9_\-. :/]")


class NoDatabase(VecapError):
    """The SQLite database of `mlflow.tracking_uri` does not exist."""


class Overtaken(VecapError):
    """Another process recorded the same first, or at the same time."""


def retry_recording(record: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that it starts again while MLflow is unavailable or a disk is full, and if overtaken.

    Recording can start again at any time: a run is FINISHED last, which deletes incomplete ones. Raises OutageError if
    the outage exceeds `outage_timeout`.
    """

    def find_cause(error: Exception) -> Cause | None:
        if isinstance(error, Unavailable):
            return Cause("MLflow", str(error))
        return full_disk(error, tempfile.gettempdir())

    @wraps(record)
    def retrying(*arguments: P.args, **named: P.kwargs) -> T:
        call = partial(record, *arguments, **named)
        for _ in range(_ATTEMPTS - 1):
            with suppress(Overtaken):  # what the other process recorded is found
                return retry(call, find_cause)
        return retry(call, find_cause)

    return retrying


@dataclass(frozen=True, slots=True)
class Tracking:
    """An open connection to MLflow at `uri`."""

    client: MlflowClient
    uri: str

    def experiment(self, dataset: str, kind: str) -> str:
        """Return the id of the experiment `vecap/<dataset>/<kind>`, creating it if it does not exist.

        *kind* is a key of `EXPERIMENTS`. Raises VecapError if the experiment is deleted.
        """
        name = f"vecap/{dataset}/{kind}"
        found = self.client.get_experiment_by_name(name)
        if found is None:
            self._create_experiment(name, {_NOTE: EXPERIMENTS[kind], "mlflow.experimentKind": _KIND})
            found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            raise VecapError(f"the experiment {name} is deleted in MLflow; run `mlflow experiments restore` for it")
        return str(found.experiment_id)

    def _create_experiment(self, name: str, tags: dict[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_experiment(name, artifact_location=_artifacts(self.uri, name), tags=tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process created it first
                raise

    def describe(self, run_id: str, note: str) -> None:
        """Set the description on a run's page; *note* is Markdown."""
        self.client.set_tag(run_id, _NOTE, note)

    def describe_model(self, model_id: str, note: str) -> None:
        """Set the description on a logged model's page."""
        self.client.set_logged_model_tags(model_id, {_NOTE: note})

    @contextmanager
    def new_run(self, experiment: str, tags: Mapping[str, str], name: str, start: int | None = None) -> Iterator[str]:
        """Create a run and yield its id; the block ends with `finish`.

        *start* is the run's start time in milliseconds since the epoch, by default now. Raises Overtaken if another
        process finished a run with the same digest first and deleted this one.
        """
        from mlflow.exceptions import MlflowException

        run = self.client.create_run(experiment, start, dict(tags), name)
        try:
            yield str(run.info.run_id)
        except MlflowException as error:
            if not self._is_overtaken(run):
                raise
            self.delete(run)
            raise Overtaken(f"another process recorded {name} first") from error

    def _is_overtaken(self, run: Run) -> bool:
        """Return whether another process finished a run with the same digest, and deletes *run* or has deleted it."""
        found = _first_finished(self._same(run))
        return not self._is_active(run) or (found is not None and found.info.run_id != run.info.run_id)

    def _is_active(self, run: Run) -> bool:
        return bool(self.client.get_run(run.info.run_id).info.lifecycle_stage == "active")

    def finish(self, run_id: str, status: str = "FINISHED", end: int | None = None) -> str:
        """End a run with the tags `vecap.digest` and `vecap.version`. Return the id of the run that counts.

        That is the run that was recorded first, or the last one that failed. Deletes incomplete runs with the same
        tags: those of killed processes, and those of processes that still record the same, which then use this one.
        *end* is the run's end time in milliseconds since the epoch, by default now.
        """
        self.client.set_tag(run_id, _RECORDED, str(int(1000 * time.time())))
        self.client.set_terminated(run_id, status, end)
        run = self.client.get_run(run_id)
        runs = self._same(run)
        first = _first_finished(runs) or max((each for each in runs if each.info.end_time), key=_recorded)
        for other in runs:
            if other.info.status != "FINISHED" and other.info.run_id not in (run_id, first.info.run_id):
                self.delete(other)
        if first.info.run_id != run_id:
            self.delete(run)
        return str(first.info.run_id)

    def find_run(self, experiment: str, digest: str, version: str) -> Run | None:
        """Return the finished run with the tags `vecap.digest` and `vecap.version`; the first if there are several."""
        return _first_finished(self._runs(experiment, digest, version))

    def _same(self, run: Run) -> list[Run]:
        """Return the runs that record the same as *run*, including it."""
        tags = run.data.tags
        return self._runs(run.info.experiment_id, tags["vecap.digest"], tags["vecap.version"])

    def _runs(self, experiment: str, digest: str, version: str) -> list[Run]:
        query = f"tags.`vecap.digest` = '{digest}' AND tags.`vecap.version` = '{version}'"
        return list(self.client.search_runs([experiment], query))

    def find_child(self, parent: Run, name: str) -> Run | None:
        """Return the child run of *parent* with the tag `vecap.run` *name*."""
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND tags.`vecap.run` = '{name}'"
        found = self.client.search_runs([parent.info.experiment_id], query)
        return found[0] if found else None

    def find_version(self, dataset: str, version: str, digest: str) -> Run | None:
        """Return the finished run of a published version, *digest* being that of its `assemble`. Read-only."""
        experiment = self.client.get_experiment_by_name(f"vecap/{dataset}/versions")
        if experiment is None:
            return None
        digest_filter = f"tags.`vecap.digest` = '{digest}' AND tags.`vecap.version` = '{version}'"
        query = f"{digest_filter} AND attributes.status = 'FINISHED'"
        found = self.client.search_runs([experiment.experiment_id], query)
        return found[0] if found else None

    def delete(self, run: Run) -> None:
        """Delete a run, its child runs and their models, of which another process may delete some at the same time."""
        from mlflow.exceptions import MlflowException

        experiment, run_id = run.info.experiment_id, run.info.run_id
        for child in self.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'"):
            self.delete(child)
        try:
            for model in self.client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
                self.client.delete_logged_model(model.model_id)
            self.client.delete_run(run_id)
        except MlflowException as error:
            if error.error_code not in _DELETED:
                raise

    def params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Record the nested *params* under dotted names."""
        from mlflow.entities import Param

        entries = [Param(clean(name), value[:_PARAM_CHARS]) for name, value in sorted(flatten(params).items())]
        for start in range(0, len(entries), _PARAMS_PER_REQUEST):
            self.client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_REQUEST])

    def metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _METRICS_PER_REQUEST):
            self.client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_REQUEST])

    def inputs(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        for start in range(0, len(datasets), _DATASETS_PER_REQUEST):
            self._log_inputs(run_id, datasets[start : start + _DATASETS_PER_REQUEST], _ATTEMPTS)

    def _log_inputs(self, run_id: str, datasets: Sequence[DatasetInput], attempts: int) -> None:
        """Call MLflow's `log_inputs`, which fails if another process creates one of the datasets at the same time."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.log_inputs(run_id, datasets=datasets)
        except MlflowException as error:
            if attempts == 1 or not _is_duplicate(error):
                raise
            self._log_inputs(run_id, datasets, attempts - 1)


def _first_finished(runs: Sequence[Run]) -> Run | None:
    return min((run for run in runs if run.info.status == "FINISHED"), key=_recorded, default=None)


def _recorded(run: Run) -> tuple[int, str]:
    """Return when *run* was recorded, and its id. Runs of earlier releases end when they are recorded."""
    return int(run.data.tags.get(_RECORDED, run.info.end_time)), str(run.info.run_id)


@contextmanager
def open_tracking(config: Config, *, create: bool = True) -> Iterator[Tracking]:
    """Yield a connection to the configured MLflow.

    Raises Unavailable if it does not answer, Overtaken if another process wrote the same at the same time, and
    VecapError for another error. A missing SQLite database is created. Without *create*, NoDatabase is raised instead.
    """
    uri = tracking_uri(config)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, round(config.mlflow.timeout))))
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for `--json`
    if is_server(uri):
        check_server(uri, config.mlflow.timeout)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs the tracebacks of what it raises
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield Tracking(_open(uri, create), uri)
    except (MlflowException, RequestException) as error:
        reason = " ".join(str(error).split())[:300]
        kind = Overtaken if _is_duplicate(error) else Unavailable if _is_temporary(error, uri) else VecapError
        raise kind(f"MLflow at {uri} reported: {reason}; check its log, or change mlflow.tracking_uri") from error


def _is_duplicate(error: Exception) -> bool:
    return any(message in str(error) for message in _DUPLICATE)


def _is_temporary(error: MlflowException | RequestException, uri: str) -> bool:
    from mlflow.exceptions import RestException
    from requests import RequestException

    if uri.startswith(_SQLITE):
        return "database is locked" in str(error)
    response = getattr(error, "response", None)  # of an artifact request; None if the connection failed
    if response is not None:
        return int(response.status_code) in TEMPORARY_STATUSES
    if isinstance(error, RequestException):
        return True
    status = error.get_http_status_code()
    if status == _DEFAULT_STATUS and not isinstance(error, RestException):  # of failed connections and of mistakes
        return isinstance(error.__cause__ or error.__context__, RequestException)
    return status in TEMPORARY_STATUSES


def _open(uri: str, create: bool) -> MlflowClient:
    from mlflow import MlflowClient
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    try:
        if uri.startswith(_SQLITE):
            file = Path(uri.removeprefix(_SQLITE))
            if not create and not file.exists():
                raise NoDatabase(f"there is no MLflow database {file}; set mlflow.tracking_uri to the MLflow in use")
            ensure_database(file, str(_artifacts(uri, "Default")))
        return MlflowClient(tracking_uri=uri)
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        kind = Unavailable if isinstance(error, OperationalError) and not uri.startswith(_SQLITE) else VecapError
        raise kind(
            f"MLflow cannot open {uri}: {reason}; restore the database from a backup, or move it away"
        ) from error


def tracking_uri(config: Config) -> str:
    """Return the URI of MLflow, with the absolute path of a SQLite file.

    Raises ConfigError if the URI is empty or uses an unset variable.
    """
    uri = expand_optional(config.mlflow.tracking_uri)
    if uri is None:  # MLflow would create a database in the working directory
        raise ConfigError("mlflow.tracking_uri is empty; set its variable, or use sqlite:///… or a server URL")
    if not uri.startswith(_SQLITE):
        return uri.removesuffix("/")
    return f"{_SQLITE}{config.resolve(uri.removeprefix(_SQLITE))}"


def is_server(uri: str) -> bool:
    """Return whether *uri* is the URL of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def dataset_input(name: str, digest: str, context: str, source: Mapping[str, Any], page: str = "") -> DatasetInput:
    """Return a dataset for a run's inputs. *digest* is a sha256; the dataset's source holds it in full.

    *page* is the target of the UI's "Open dataset" button.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    content = {**source, "sha256": digest} | ({"url": page} if page else {})
    body = json.dumps(content, sort_keys=True, ensure_ascii=False)
    kind = "external" if page else "vecap"  # the UI shows the button for the former
    dataset = Dataset(name[:_NAME_CHARS], digest[:_DIGEST_CHARS], source_type=kind, source=body)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def source_inputs(inputs: Sequence[Input], page: str) -> list[DatasetInput]:
    """Return the crawled source files among *inputs* as datasets; *page* is the URL of their list."""
    return [
        dataset_input(item.name, item.digest, "source", {"bytes": item.bytes}, page)
        for item in inputs
        if item.kind == "source"
    ]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return *nested* with dotted names; strings unchanged, lists and other values as JSON."""
    flat: dict[str, str] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def clean(name: str) -> str:
    """Return *name* without characters that MLflow rejects in names of params and metrics."""
    return _INVALID_NAME_CHARS.sub("_", name)


def airflow_tags() -> dict[str, str]:
    """Return tags that identify the current Airflow task, empty outside Airflow; a DAG adds the task's URL."""
    found = {f"airflow.{name}": os.environ.get(f"AIRFLOW_CTX_{variable}") for name, variable in _AIRFLOW.items()}
    return {name: value for name, value in found.items() if value}


def _artifacts(uri: str, experiment: str) -> str | None:
    """Return an experiment's artifact URI: next to the SQLite file, or None to let the server decide."""
    if not uri.startswith(_SQLITE):
        return None
    folder = Path(uri.removeprefix(_SQLITE)).parent / "mlflow-artifacts" / experiment
    return folder.as_uri()

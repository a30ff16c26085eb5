"""Tasks with links in Airflow's UI: to the version's page, the MLflow run, the model and the quality report.

VeCap's pages open inside Airflow's UI, which adds the navigation, the theme, and the login.

The running task stores each URL as an XCom, because Airflow's API server does not load VeCap's configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.providers.standard.decorators.python import _PythonDecoratedOperator
from airflow.sdk import BaseOperatorLink, get_current_context
from airflow.sdk.bases.decorator import TaskDecorator, task_decorator_factory
from airflow.sdk.bases.xcom import BaseXCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from vecap_tasks.config import Config
    from vecap_tasks.core.stage import Stage

_VERSION_KEY = "version_page"
_RUN_KEY = "mlflow_page"
_MODEL_KEY = "model_page"
_REPORT_KEY = "report_page"


class VersionLink(BaseOperatorLink):
    """Link to VeCap's page of the task's version, or to the list of versions if the task has several."""

    name = "Dataset version"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _stored_url(ti_key, _VERSION_KEY)


class MlflowRunLink(BaseOperatorLink):
    """Link to the MLflow run that the task recorded; hidden without a run or an MLflow UI."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _stored_url(ti_key, _RUN_KEY)


class RegisteredModelLink(BaseOperatorLink):
    """Link to the registered model in MLflow; hidden without an MLflow UI."""

    name = "Registered model"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _stored_url(ti_key, _MODEL_KEY)


class ReportLink(BaseOperatorLink):
    """Link to the quality report, also if the quality gate failed."""

    name = "Quality report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _stored_url(ti_key, _REPORT_KEY)


class VersionLinkOperator(_PythonDecoratedOperator):
    """A Python task with a link to its version."""

    custom_operator_name = "@version_link_task"
    operator_extra_links: tuple[BaseOperatorLink, ...] = (VersionLink(),)


class RunLinkOperator(VersionLinkOperator):
    """A Python task with links to its version and MLflow run."""

    custom_operator_name = "@run_link_task"
    operator_extra_links = (VersionLink(), MlflowRunLink())


class ModelLinkOperator(VersionLinkOperator):
    """A Python task with links to its version and the registered model."""

    custom_operator_name = "@model_link_task"
    operator_extra_links = (VersionLink(), RegisteredModelLink())


class ReportLinkOperator(VersionLinkOperator):
    """A Python task with links to its version and quality report."""

    custom_operator_name = "@report_link_task"
    operator_extra_links = (VersionLink(), ReportLink())


def version_link_task(python_callable: Callable[..., Any] | None = None, **options: Any) -> TaskDecorator:
    """Decorate a function like `@task`, as a `VersionLinkOperator`."""
    return task_decorator_factory(python_callable, decorated_operator_class=VersionLinkOperator, **options)


def run_link_task(python_callable: Callable[..., Any] | None = None, **options: Any) -> TaskDecorator:
    """Decorate a function like `@task`, as a `RunLinkOperator`."""
    return task_decorator_factory(python_callable, decorated_operator_class=RunLinkOperator, **options)


def model_link_task(python_callable: Callable[..., Any] | None = None, **options: Any) -> TaskDecorator:
    """Decorate a function like `@task`, as a `ModelLinkOperator`."""
    return task_decorator_factory(python_callable, decorated_operator_class=ModelLinkOperator, **options)


def report_link_task(python_callable: Callable[..., Any] | None = None, **options: Any) -> TaskDecorator:
    """Decorate a function like `@task`, as a `ReportLinkOperator`."""
    return task_decorator_factory(python_callable, decorated_operator_class=ReportLinkOperator, **options)


def store_version_link(versions: Sequence[str]) -> None:
    """Store the URL of the version named in *versions*, or of all versions, for the current task's link."""
    _store_url(_VERSION_KEY, version_url(*(versions if len(versions) == 1 else ())))


def store_run_link(config: Config, run: str) -> None:
    """Store the URL of the MLflow run *run* for the current task's link."""
    from mlflow import MlflowClient

    from vecap_tasks.core.mlflow_tracking import tracking_uri
    from vecap_tasks.lineage.mlflow_notes import page_url, run_page

    experiment = MlflowClient(tracking_uri(config)).get_run(run).info.experiment_id
    url = page_url(config, run_page(experiment, run))
    if url is not None:
        _store_url(_RUN_KEY, url)


def store_model_link(config: Config, name: str, version: str) -> None:
    """Store the URL of the *version* of the registered model *name* in MLflow for the current task's link."""
    from vecap_tasks.lineage.mlflow_notes import page_url, registered_page

    url = page_url(config, registered_page(name, version))
    if url is not None:
        _store_url(_MODEL_KEY, url)


def store_report_link(stage: Stage, mlflow_path: str | None) -> None:
    """Store the URL of the report of *stage* for the current task's link: in MLflow's UI, else on VeCap's pages.

    *mlflow_path* is the report's path in MLflow's UI, None if MLflow does not have the report.
    """
    from vecap_tasks.lineage.mlflow_notes import page_url

    url = None if mlflow_path is None else page_url(stage.config, mlflow_path)
    _store_url(_REPORT_KEY, url or version_url(stage.version.name, "report/index.html"))


def pages_url() -> str:
    """Return the URL of VeCap's pages inside the UI of the current Airflow server."""
    airflow = str(get_current_context()["ti"].log_url).partition("/dags/")[0]
    return f"{airflow}/plugin/vecap{urlsplit(airflow).path}/vecap"


def version_url(*path: str) -> str:
    """Return the URL of *path* below VeCap's list of versions."""
    return "/".join([f"{pages_url()}/versions", *map(quote, path)])


def _store_url(key: str, url: str) -> None:
    get_current_context()["ti"].xcom_push(key, url)


def _stored_url(ti_key: TaskInstanceKey, key: str) -> str:
    url = BaseXCom.get_value(ti_key=ti_key, key=key)
    return str(url) if url else ""

"""Tasks with buttons in Airflow's UI: to the version's page, to the run in MLflow, to the gate's report.

Where a button leads is found while the task runs, and kept as an XCom: the API server knows no configuration of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.standard.decorators.python import _PythonDecoratedOperator
from airflow.sdk import BaseOperatorLink, get_current_context
from airflow.sdk.bases.decorator import TaskDecorator, task_decorator_factory
from airflow.sdk.bases.xcom import BaseXCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from vecap_tasks.config import Config
    from vecap_tasks.core.stage import Stage

_VERSION = "version_page"
_RUN = "mlflow_page"
_REPORT = "report_page"


class VersionLink(BaseOperatorLink):
    """VeCap's page of the version that the task worked on; of all versions where it worked on several."""

    name = "Dataset version"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _kept(ti_key, _VERSION)


class MlflowRunLink(BaseOperatorLink):
    """The page of the MLflow run that the task recorded; no button where it recorded none or there is no page."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _kept(ti_key, _RUN)


class ReportLink(BaseOperatorLink):
    """The gate's report on the crawl, of a task that failed by it too."""

    name = "Quality report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _kept(ti_key, _REPORT)


class VersionLinkOperator(_PythonDecoratedOperator):
    """A Python task with the link to the version that it works on."""

    custom_operator_name = "@version_link_task"
    operator_extra_links: tuple[BaseOperatorLink, ...] = (VersionLink(),)


class RunLinkOperator(VersionLinkOperator):
    """One with the link to its run, too."""

    custom_operator_name = "@run_link_task"
    operator_extra_links = (VersionLink(), MlflowRunLink())


class ReportLinkOperator(VersionLinkOperator):
    """One with the link to its report, too."""

    custom_operator_name = "@report_link_task"
    operator_extra_links = (VersionLink(), ReportLink())


def version_link_task(python_callable: Callable[..., Any] | None = None, **options: Any) -> TaskDecorator:
    """Make a task of a function, as `@task` does."""
    return task_decorator_factory(python_callable, decorated_operator_class=VersionLinkOperator, **options)


def run_link_task(python_callable: Callable[..., Any] | None = None, **options: Any) -> TaskDecorator:
    """Make a task of a function, as `@task` does."""
    return task_decorator_factory(python_callable, decorated_operator_class=RunLinkOperator, **options)


def report_link_task(python_callable: Callable[..., Any] | None = None, **options: Any) -> TaskDecorator:
    """Make a task of a function, as `@task` does."""
    return task_decorator_factory(python_callable, decorated_operator_class=ReportLinkOperator, **options)


def remember_versions(versions: Sequence[str]) -> None:
    """Keep the page of *versions*, names, for the link of the task that calls this."""
    _keep(_VERSION, _vecap_page(*(versions if len(versions) == 1 else ())))


def remember_run(config: Config, run: str) -> None:
    """Keep the page of MLflow's run *run* for the link of the task that calls this."""
    from mlflow import MlflowClient

    from vecap_tasks.core.mlflow_tracking import tracking_uri
    from vecap_tasks.lineage.mlflow_notes import address, run_page

    experiment = MlflowClient(tracking_uri(config)).get_run(run).info.experiment_id
    page = address(config, run_page(experiment, run))
    if page is not None:
        _keep(_RUN, page)


def remember_report(stage: Stage, recorded: str | None) -> None:
    """Keep where the report of *stage* can be read: in MLflow's UI, or on VeCap's pages where that has none.

    *recorded* is the link to it inside MLflow, None where MLflow does not have it.
    """
    from vecap_tasks.lineage.mlflow_notes import address

    page = None if recorded is None else address(stage.config, recorded)
    _keep(_REPORT, page or _vecap_page(stage.version.name, "report/index.html"))


def _vecap_page(*below: str) -> str:
    """Return the URL of a page *below* VeCap's list of versions, wherever Airflow is served."""
    airflow = str(get_current_context()["ti"].log_url).partition("/dags/")[0]
    return "/".join([f"{airflow}/vecap/versions", *map(quote, below)])


def _keep(key: str, page: str) -> None:
    get_current_context()["ti"].xcom_push(key, page)


def _kept(ti_key: TaskInstanceKey, key: str) -> str:
    page = BaseXCom.get_value(ti_key=ti_key, key=key)
    return str(page) if page else ""

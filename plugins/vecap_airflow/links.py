"""`@recording_task`: a task that records something in MLflow, with a button in the UI that opens the run there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.decorators.python import _PythonDecoratedOperator
from airflow.sdk import BaseOperatorLink, get_current_context
from airflow.sdk.bases.decorator import TaskDecorator, task_decorator_factory
from airflow.sdk.bases.xcom import BaseXCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from vecap_tasks.config import Config

_KEY = "mlflow_page"


class MlflowRunLink(BaseOperatorLink):
    """The page of the MLflow run that the task recorded; no button where it recorded none or there is no page."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        page = BaseXCom.get_value(ti_key=ti_key, key=_KEY)
        return str(page) if page else ""


class RecordingOperator(_PythonDecoratedOperator):
    """A Python task with the link."""

    custom_operator_name = "@recording_task"
    operator_extra_links = (MlflowRunLink(),)


def recording_task(python_callable: Callable[..., Any] | None = None, **options: Any) -> TaskDecorator:
    """Make a task of a function, as `@task` does."""
    return task_decorator_factory(python_callable, decorated_operator_class=RecordingOperator, **options)


def remember_run(config: Config, run: str) -> None:
    """Keep the page of MLflow's run *run* for the link of the task that calls this."""
    from mlflow import MlflowClient

    from vecap_tasks.lineage.tracking import tracking_uri

    uri = tracking_uri(config)
    if uri.startswith(("http://", "https://")):
        experiment = MlflowClient(uri).get_run(run).info.experiment_id
        get_current_context()["ti"].xcom_push(_KEY, f"{uri}/#/experiments/{experiment}/runs/{run}")

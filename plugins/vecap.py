"""The Airflow plugin: VeCap's pages, served by Airflow's API server to users who can view the DAG."""

from airflow.plugins_manager import AirflowPlugin
from vecap_airflow.job import AIRFLOW_PATH
from vecap_airflow.pages.app import app


class VecapPlugin(AirflowPlugin):
    """Adds the pages at `/vecap` to Airflow's navigation."""

    name = "vecap"
    fastapi_apps = [{"app": app, "url_prefix": "/vecap", "name": "VeCap"}]  # noqa: RUF012 - Airflow's API
    external_views = [  # noqa: RUF012
        {
            "name": "VeCap",
            "href": f"{AIRFLOW_PATH}/vecap/versions",
            "destination": "nav",
            "url_route": "vecap",
            "category": "browse",
        }
    ]

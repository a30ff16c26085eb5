"""What Airflow loads: VeCap's pages in its navigation, served by its API server to whoever may see the DAG."""

from airflow.plugins_manager import AirflowPlugin
from vecap_airflow.pages.app import app


class VecapPlugin(AirflowPlugin):
    """The pages at `/vecap`."""

    name = "vecap"
    fastapi_apps = [{"app": app, "url_prefix": "/vecap", "name": "VeCap"}]  # noqa: RUF012 - Airflow's own form
    external_views = [  # noqa: RUF012
        {"name": "VeCap", "href": "/vecap/versions", "destination": "nav", "url_route": "vecap", "category": "browse"}
    ]

"""The services that the work leans on: Dask and MLflow. Nothing here changes a byte of what is made."""

from __future__ import annotations

from pydantic import Field

from vecap_tasks.config.section import Section


class TlsConfig(Section):
    """Files in PEM by which we and a Dask scheduler know each other. Without them a scheduler runs anyone's code."""

    ca: str = Field(description="Certificate of who signed the scheduler's.")
    cert: str = Field(description="Our certificate.")
    key: str = Field(description="Its private key.")


class DaskConfig(Section):
    address: str | None = Field(
        None, description="Scheduler to connect to, `tcp://…` or `tls://…`; none starts workers for the run."
    )
    tls: TlsConfig | None = Field(
        None, description="For an address that begins with tls://; none: Dask's own settings."
    )
    workers: int = Field(2, ge=1, description="Worker processes to start when there is no address.")
    resources: dict[str, float] = Field(default_factory=dict, description="Asked of a worker per captioning shard.")


class MlflowConfig(Section):
    """Where runs are recorded. `sqlite:///relative.db` starts from the configuration's folder."""

    tracking_uri: str = "sqlite:///${VECAP_HOME:-.vecap}/mlflow.db"
    pages: str | None = Field(
        None, description="URL of MLflow's UI in a browser; none or empty: the tracking_uri, if that is a server."
    )
    timeout: float = Field(20, gt=0, description="Seconds to wait for a server's answer.")
    watch: float | None = Field(
        180,
        gt=0,
        description="A training that takes longer than so many seconds stands in a served MLflow while it goes on, and "
        "is brought up to date as often; none: when it is recorded.",
    )

"""Paths and ports of one installation of the services: `VECAP_HOME` and one variable for each port."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vecap_tasks.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"


def require_checkout() -> None:
    """Raise ConfigError if this package is installed without the rest of the repository."""
    missing = [f"{name}/" for name in ("dags", "plugins", "configs") if not (REPOSITORY / name).is_dir()]
    if missing:
        raise ConfigError(
            f"The services need a checkout of the repository: {REPOSITORY} lacks {', '.join(missing)}; "
            "run `make up` in a checkout"
        )


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a service listens on, and the environment variable that sets it."""

    purpose: str
    variable: str
    number: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.number}"


@dataclass(frozen=True, slots=True)
class Settings:
    """One installation. `home` holds all files that it writes, of services and data."""

    home: Path
    config: Path
    dags: Path
    airflow: Port
    mlflow: Port
    dask: Port
    dashboard: Port
    web: Port

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the environment. Raises ConfigError if a port is not a number from 1 to 65535."""
        env = os.environ if environment is None else environment

        def port(purpose: str, variable: str, default: int) -> Port:
            text = env.get(variable) or str(default)
            if not text.isdecimal() or not 0 < int(text) < 65536:
                raise ConfigError(f"{variable} must be the port of {purpose}, a number from 1 to 65535, not {text!r}")
            return Port(purpose, variable, int(text))

        return cls(
            home=Path(env.get("VECAP_HOME") or REPOSITORY / ".vecap").expanduser().absolute(),
            config=Path(env.get("VECAP_CONFIG") or REPOSITORY / "configs" / "demo.yaml").expanduser().absolute(),
            dags=Path(env.get("VECAP_DAGS") or REPOSITORY / "dags").expanduser().absolute(),
            airflow=port("Airflow", "VECAP_AIRFLOW_PORT", 8080),
            mlflow=port("MLflow", "VECAP_MLFLOW_PORT", 5000),
            dask=port("the Dask scheduler", "VECAP_DASK_PORT", 8786),
            dashboard=port("the Dask dashboard", "VECAP_DASK_DASHBOARD_PORT", 8787),
            web=port("the miniature web", "VECAP_WEB_PORT", 8765),
        )

    @property
    def ports(self) -> tuple[Port, ...]:
        return (self.airflow, self.mlflow, self.dask, self.dashboard, self.web)

    @property
    def folder(self) -> Path:
        """Folder of the services' state, databases and logs."""
        return self.home / "services"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def airflow_home(self) -> Path:
        return self.folder / "airflow"

    @property
    def dask_address(self) -> str:
        return f"tls://{HOST}:{self.dask.number}"

    @property
    def dask_certificate(self) -> Path:
        """File with the certificate that all Dask processes present and trust, and its private key."""
        return self.folder / "tls" / "dask.pem"

    def environment(self) -> dict[str, str]:
        """Return the environment of every service, Airflow task and Dask worker."""
        binaries = str(Path(sys.executable).parent)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        return inherited | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
            "PATH": os.pathsep.join([binaries, os.environ.get("PATH", os.defpath)]),
            "VECAP_HOME": str(self.home),
            "VECAP_CONFIG": str(self.config),
            "VECAP_DASK_ADDRESS": self.dask_address,
            **self._dask_tls(),
            "VECAP_MLFLOW_URI": self.mlflow.url,
            **{port.variable: str(port.number) for port in self.ports},
            "AIRFLOW_HOME": str(self.airflow_home),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }

    def _dask_tls(self) -> dict[str, str]:
        prefix, file = "DASK_DISTRIBUTED__COMM__TLS", str(self.dask_certificate)
        roles = ("SCHEDULER", "WORKER", "CLIENT")
        files = {f"{prefix}__{role}__{kind}": file for role in roles for kind in ("CERT", "KEY")}
        return {f"{prefix}__CA_FILE": file, **files}


def write_private(file: Path, text: str) -> None:
    """Write *file* atomically, readable only by its owner."""
    temporary = file.with_name(file.name + ".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600, exist_ok=False)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)

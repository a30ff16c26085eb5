"""The Dask cluster: an existing scheduler, optionally over TLS, or worker processes started for the run."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

from vecap_tasks.config import Config, expand_optional
from vecap_tasks.errors import ConfigError, VecapError, format_error

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

log = logging.getLogger(__name__)

_LOG_LEVEL = "DASK_LOGGING__DISTRIBUTED"
_SPAWN = "distributed.nanny.pre-spawn-environ"
# Per-worker stack profiling (100 Hz) and event-loop ticks (50 Hz) feed only the dashboard, which is off.
_DASHBOARD_OFF = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
# Restarting a killed worker can take longer than Dask's default of 15 s on a busy machine.
_LOST_WORKER_TIMEOUT = {"distributed.deploy.lost-worker-timeout": "10 minutes"}
_CONNECT_TIMEOUT = 30  # seconds to reach the scheduler, and for its first worker


@contextmanager
def connect(config: Config) -> Iterator[Client]:
    """Yield a client of the configured scheduler, or of local worker processes that stop at the end of the block.

    Raises VecapError if the scheduler does not answer or the TLS handshake fails.
    """
    import dask.config
    from distributed import Client, LocalCluster
    from distributed.security import Security

    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("distributed").setLevel(logging.WARNING)  # INFO logs every connection
    address = expand_optional(config.dask.address)
    if address:
        security = load_security(config, address)
        try:
            client = Client(address, timeout=_CONNECT_TIMEOUT, set_as_default=False, security=security)
        except (OSError, TimeoutError, ValueError) as error:
            raise VecapError(_connection_error(address, error)) from error
        with client:
            yield client
        return
    logging.getLogger("distributed.nanny").setLevel(logging.ERROR)  # WARNING reports workers that are slow to stop
    # Dask makes malloc return every freed buffer to the system, which then zeroes a new one per image: about 1 ms of
    # CPU per decoded photograph.
    variables = dict(dask.config.get(_SPAWN))
    variables.pop("MALLOC_TRIM_THRESHOLD_", None)
    if _LOG_LEVEL not in os.environ:
        variables[_LOG_LEVEL] = "critical"  # at the end, workers report the lost scheduler as an error
    with _uninterrupted_children(), dask.config.set({_SPAWN: variables, **_DASHBOARD_OFF}):
        cluster = LocalCluster(
            n_workers=config.dask.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # it listens even without a dashboard
            resources=config.dask.resources or None,
            # A shard limits its own memory; Dask would pause a worker at 80 % of its share forever.
            memory_limit=0,
            # Any client of a scheduler can run code, so other users of this machine must not connect.
            security=Security.temporary(),
        )
    with dask.config.set(_LOST_WORKER_TIMEOUT), cluster, Client(cluster, set_as_default=False) as client:
        client.forward_logging("vecap_tasks")  # written by the workers, the lines would break a progress bar
        yield client


def load_security(config: Config, address: str) -> Security | None:
    """Return the TLS certificates for the scheduler at *address*, None if it does not use TLS.

    They come from `dask.tls`, or else from Dask's own settings (`DASK_DISTRIBUTED__COMM__TLS__CA_FILE` …).

    Raises ConfigError if *address* and `dask.tls` conflict, or if a file is missing or invalid.
    """
    import ssl

    import dask.config
    from distributed.security import Security

    tls = config.dask.tls
    encrypted = address.startswith("tls://")
    if tls is None:
        if not encrypted:
            return None
        if not dask.config.get("distributed.comm.tls.ca-file"):
            raise ConfigError(
                f"the Dask scheduler at {address} requires certificates; set dask.tls, or Dask's own TLS settings"
            )
        return Security(require_encryption=True)  # reads the files from Dask's settings
    if not encrypted:
        raise ConfigError(f"dask.tls is set, but {address} does not use TLS; use a tls:// URL in dask.address")
    files = {name: config.resolve(getattr(tls, name)) for name in ("ca", "cert", "key")}
    for name, file in files.items():
        if not Path(file).is_file():
            raise ConfigError(f"dask.tls.{name}: file {file} does not exist; correct the path")
    try:
        context = ssl.create_default_context(cafile=files["ca"])
        context.load_cert_chain(files["cert"], files["key"])
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"dask.tls: cannot load {', '.join(files.values())}: {format_error(error)}") from error
    return Security(
        tls_ca_file=files["ca"],
        tls_client_cert=files["cert"],
        tls_client_key=files["key"],
        require_encryption=True,
    )


def _connection_error(address: str, error: BaseException) -> str:
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return (
                f"TLS handshake with the Dask scheduler at {address} failed: {format_error(cause)}; "
                "check that both certificates come from the same CA"
            )
        cause = cause.__cause__ or cause.__context__
    return f"no Dask scheduler answers at {address}; start it, or change dask.address"


def count_slots(client: Client, resources: Mapping[str, float]) -> int:
    """Return how many tasks that need *resources* the current workers can run at once."""
    count = 0
    for worker in client.scheduler_info(n_workers=-1).get("workers", {}).values():  # {} if the connection is lost
        available = worker.get("resources") or {}
        limits = (int(available.get(name, 0) / need) for name, need in resources.items())
        count += min([int(worker["nthreads"]), *limits])
    return count


def wait_for_slots(client: Client, resources: Mapping[str, float]) -> int:
    """Return `count_slots` once it is positive. Raises VecapError after a timeout."""
    deadline = time.monotonic() + _CONNECT_TIMEOUT
    while not (count := count_slots(client, resources)):
        if time.monotonic() > deadline:
            need = f" with {dict(resources)}" if resources else ""
            raise VecapError(f"the Dask cluster has no worker{need}; start one, or change dask.resources")
        time.sleep(0.5)
    return count


@contextmanager
def _uninterrupted_children() -> Iterator[None]:
    """Block Ctrl-C in processes started in the block, or later by threads started in it; their parent stops them.

    In this process it waits for the end of the block.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        resource_tracker.ensure_running()  # it unblocks the signal when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)

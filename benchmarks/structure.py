"""Files, lines and import cycles of `vecap_tasks`, with the limits that the project keeps.

    python -m benchmarks.structure [--json FILE] [--list]

A cycle is a set of modules, or of folders, that import each other, wherever in a module the import stands. A folder's
modules are those directly in it; `crawl` and `crawl/http` are two folders. Code lines have no comment, no docstring and
no blank line. Exit code 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from benchmarks.report import Measure, report

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "vecap_tasks"
LIMITS = {"files": 190, "longest file": 400, "files in one folder": 25, "module cycles": 0, "folder cycles": 0}


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its file, its lines, and the modules of the package that it imports."""

    file: Path
    lines: int
    code: int
    imports: frozenset[str]


def read_modules(root: Path = ROOT) -> dict[str, Module]:
    """Return the modules of the package by dotted name."""
    files = {_name(file.relative_to(root)): file for file in sorted((root / PACKAGE).rglob("*.py"))}
    found = {}
    for name, file in files.items():
        source = file.read_text(encoding="utf-8")
        imports = frozenset(_imports(ast.parse(source), files.keys())) - {name}
        found[name] = Module(file, len(source.splitlines()), _code_lines(source), imports)
    return found


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.AST, known: Mapping[str, Path] | set[str]) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # a module of the package, else a name in it
                module = f"{node.module}.{alias.name}"
                found.add(module if module in known else node.module)
    return found.intersection(known)


def _code_lines(source: str) -> int:
    """Return the number of lines that hold a token other than a comment or a docstring."""
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    }
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in blank or (token.type == tokenize.STRING and token.start[0] in docstrings):
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def find_cycles(graph: Mapping[str, set[str] | frozenset[str]]) -> list[list[str]]:
    """Return one cycle of each group of nodes that depend on each other, as a path that ends where it begins."""
    left = {node: set(successors) for node, successors in graph.items()}
    cycles = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            cycle = error.args[1][::-1]
            cycles.append(cycle)
            left[cycle[0]].discard(cycle[1])
        else:
            return cycles


def folders(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Return which folders the modules of each folder import from."""
    place = {name: str(module.file.parent.relative_to(ROOT)) for name, module in modules.items()}
    found: dict[str, set[str]] = {folder: set() for folder in place.values()}
    for name, module in modules.items():
        found[place[name]] |= {place[other] for other in module.imports} - {place[name]}
    return found


def measures(modules: Mapping[str, Module]) -> list[Measure]:
    """Return the figures; a figure with a limit has it in `limit`."""
    per_folder = Counter(str(module.file.parent.relative_to(ROOT)) for module in modules.values())
    found = {
        "files": len(modules),
        "lines": sum(module.lines for module in modules.values()),
        "code lines": sum(module.code for module in modules.values()),
        "longest file": max(module.lines for module in modules.values()),
        "files in one folder": max(per_folder.values()),
        "module cycles": len(find_cycles({name: module.imports for name, module in modules.items()})),
        "folder cycles": len(find_cycles(folders(modules))),
    }
    return [Measure(name, "count", value, None, LIMITS.get(name), PACKAGE) for name, value in found.items()]


def main(arguments: list[str] | None = None) -> int:
    """Print the figures and every cycle; return 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to FILE as well")
    parser.add_argument("--list", action="store_true", help="print every file with its lines")
    given = parser.parse_args(arguments)
    modules = read_modules()
    if given.list:
        for module in modules.values():
            print(f"{module.lines:>5} {module.code:>5}  {module.file.relative_to(ROOT)}")
    found = measures(modules)
    report(found, given.json)
    graphs = ({name: module.imports for name, module in modules.items()}, folders(modules))
    for cycle in (cycle for graph in graphs for cycle in find_cycles(graph)):
        print("cycle: " + " -> ".join(cycle))
    return int(any(measure.limit is not None and measure.ours > measure.limit for measure in found))


if __name__ == "__main__":
    sys.exit(main())

"""Files, lines and import cycles of `vecap_tasks`, with the project's limits.

    python -m benchmarks.structure [--json FILE] [--list]

A cycle is a set of modules, or of folders, that import each other, anywhere in a module. A folder contains the modules
directly in it; `crawl` and `crawl/http` are two folders. Code lines exclude comments, docstrings and blank lines. Exits
with 1 if a limit is exceeded.
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
LIMITS = {"files": 270, "longest file": 400, "files in one folder": 28, "module cycles": 0, "folder cycles": 0}


@dataclass(frozen=True, slots=True)
class Module:
    """A module: file, line counts, and imported modules of the package."""

    file: Path
    lines: int
    code: int
    imports: frozenset[str]


def read_modules(root: Path = ROOT) -> dict[str, Module]:
    """Return the modules of the package by dotted name."""
    files = {_name(file.relative_to(root)): file for file in sorted((root / PACKAGE).rglob("*.py"))}
    modules = {}
    for name, file in files.items():
        source = file.read_text(encoding="utf-8")
        imports = frozenset(_imports(ast.parse(source), files.keys())) - {name}
        modules[name] = Module(file, len(source.splitlines()), _code_lines(source), imports)
    return modules


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.AST, known: Mapping[str, Path] | set[str]) -> set[str]:
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # a module of the package, or a name in one
                module = f"{node.module}.{alias.name}"
                imported.add(module if module in known else node.module)
    return imported.intersection(known)


def _code_lines(source: str) -> int:
    """Return the number of lines with a token other than a comment or docstring."""
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
    """Return one cycle of each group of nodes that depend on each other, as a path from a node to itself."""
    remaining = {node: set(successors) for node, successors in graph.items()}
    cycles = []
    while True:
        try:
            TopologicalSorter(remaining).prepare()
        except CycleError as error:
            cycle = error.args[1][::-1]
            cycles.append(cycle)
            remaining[cycle[0]].discard(cycle[1])
        else:
            return cycles


def folders(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Return, for each folder, the other folders that its modules import from."""
    folder_of = {name: str(module.file.parent.relative_to(ROOT)) for name, module in modules.items()}
    dependencies: dict[str, set[str]] = {folder: set() for folder in folder_of.values()}
    for name, module in modules.items():
        dependencies[folder_of[name]] |= {folder_of[other] for other in module.imports} - {folder_of[name]}
    return dependencies


def measures(modules: Mapping[str, Module]) -> list[Measure]:
    """Return the measures, with their limits."""
    per_folder = Counter(str(module.file.parent.relative_to(ROOT)) for module in modules.values())
    values = {
        "files": len(modules),
        "lines": sum(module.lines for module in modules.values()),
        "code lines": sum(module.code for module in modules.values()),
        "longest file": max(module.lines for module in modules.values()),
        "files in one folder": max(per_folder.values()),
        "module cycles": len(find_cycles({name: module.imports for name, module in modules.items()})),
        "folder cycles": len(find_cycles(folders(modules))),
    }
    return [Measure(name, "count", value, None, LIMITS.get(name), PACKAGE) for name, value in values.items()]


def main(arguments: list[str] | None = None) -> int:
    """Print the measures and all cycles; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to FILE")
    parser.add_argument("--list", action="store_true", help="print the line counts of every file")
    options = parser.parse_args(arguments)
    modules = read_modules()
    if options.list:
        for module in modules.values():
            print(f"{module.lines:>5} {module.code:>5}  {module.file.relative_to(ROOT)}")
    results = measures(modules)
    report(results, options.json)
    graphs = ({name: module.imports for name, module in modules.items()}, folders(modules))
    for cycle in (cycle for graph in graphs for cycle in find_cycles(graph)):
        print("cycle: " + " -> ".join(cycle))
    return int(any(measure.limit is not None and measure.ours > measure.limit for measure in results))


if __name__ == "__main__":
    sys.exit(main())

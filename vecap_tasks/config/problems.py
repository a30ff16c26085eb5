"""Problems of a configuration file: lines of settings, one-line messages, suggestions for misspelled names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from vecap_tasks.config.section import Section
from vecap_tasks.errors import ConfigError, closest, did_you_mean

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_NOT_JSON = {_TIMESTAMP, *(f"tag:yaml.org,2002:{name}" for name in ("binary", "omap", "pairs", "set"))}
_TYPES = ("str", "int")  # pydantic's names of the types of a union
_QUOTED = re.compile(r"'([^']+)'")

Path = tuple[str | int, ...]  # of a setting: keys and list indices


class _Loader(yaml.SafeLoader):
    """Loads JSON values only: a date such as 2026-01-01 names a version and stays a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != _TIMESTAMP]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag not in _NOT_JSON
}


def read_yaml(text: str) -> Any:
    """Return the contents of the YAML *text* as JSON values; dates stay strings. Raises yaml.YAMLError."""
    return read_yaml_lines(text)[0]


def read_yaml_lines(text: str) -> tuple[Any, dict[Path, int]]:
    """Return the contents of the YAML *text* as JSON values, and the line of each setting, from 1.

    Raises yaml.YAMLError, also for a setting that is given twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = dict(_lines(node, (), set()))
        return loader.construct_document(node), lines
    except (ValueError, RecursionError) as error:  # such as a tag `!!int` before a word
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def _lines(node: yaml.Node, path: Path, visited: set[int]) -> Iterator[tuple[Path, int]]:
    if id(node) in visited:  # an alias
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen and name != "<<":
                problem = f"{name} is set twice, also in line {seen[name]}; remove one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen[name] = line
            yield (*path, name), line
            yield from _lines(value, (*path, name), visited)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*path, number), value.start_mark.line + 1
            yield from _lines(value, (*path, number), visited)


def yaml_error(error: yaml.YAMLError, name: str) -> ConfigError:
    """Return in one line where the YAML of the file *name* is invalid, and how to correct the usual causes."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}")
    problem = " ".join((error.problem or str(error)).split())
    if "'\\t'" in problem:
        problem += "; the line begins with a tab, use spaces"
    elif problem == "mapping values are not allowed here":
        problem += "; put the value in quotes if its colon is text"
    line = error.problem_mark.line + 1
    return ConfigError(f"{name}:{line}: not valid YAML: {problem} (column {error.problem_mark.column + 1})")


@dataclass(frozen=True, slots=True)
class Origin:
    """The file of a configuration, the line of each setting that is in it, and the settings that `--set` replaced."""

    name: str = "configuration"
    lines: Mapping[Path, int] = field(default_factory=dict)
    replaced: tuple[Path, ...] = ()

    def where(self, path: Path) -> str:
        """Return `FILE:LINE` of the setting *path*, or of its section; `FILE` if the file has neither."""
        replaced = any(
            path[: len(o)] == o or (o[: len(path)] == path and path not in self.lines) for o in self.replaced
        )
        if not replaced:
            for length in range(len(path), 0, -1):
                if path[:length] in self.lines:
                    return f"{self.name}:{self.lines[path[:length]]}"
        return self.name


def describe_errors(error: ValidationError, values: Any, origin: Origin, root: type[Section]) -> dict[Path, str]:
    """Return the problems that validation of *values* found, one line each, by the path of the setting in the file."""
    found: dict[Path, str] = {}
    suggested: set[str] = set()
    missing: dict[str, Path] = {}
    for problem in error.errors():
        path = _path_in(values, problem["loc"])
        where = ".".join(map(str, path)) or "the top level"
        if problem["type"] == "extra_forbidden":
            close = _similar_setting(problem["loc"], path[:-1], root)
            suggested.add(close or "")
            hint = f"; did you mean {close}?" if close else ""
            message = f"unknown setting {where}{hint}"
        else:
            message = f"{where}: {_message(problem, root)}"
        if problem["type"] == "missing":
            missing[where] = path
        found.setdefault(path, f"{origin.where(path)}: {message}")  # a value of several types has a problem for each
    for where, path in missing.items():  # it is there, under the misspelled name
        if where in suggested:
            del found[path]
    return found


def _message(problem: Any, root: type[Section]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    context, value = problem.get("ctx", {}), problem["input"]
    # The value of api_key_env may be the key itself.
    hidden = isinstance(value, dict | list) or problem["type"] == "missing" or problem["loc"][-1:] == ("api_key_env",)
    shown = "" if hidden else f", not {value!r}"
    if problem["type"] == "string_pattern_mismatch":
        message = _description(problem["loc"], root) or message
    if problem["type"] == "literal_error":
        return f"{message}{shown}{did_you_mean(str(value), _QUOTED.findall(context['expected']))}"
    if problem["type"] == "union_tag_invalid":
        return f"{message}{did_you_mean(context['tag'], _QUOTED.findall(context['expected_tags']))}"
    return f"{message}{shown}"


def _path_in(values: Any, location: Sequence[str | int]) -> Path:
    """Return pydantic's *location* without the tags and types of unions, which are not in *values*."""
    path: list[str | int] = []
    for part in location:
        known = isinstance(values, dict) and part in values
        if not known and (part in _TYPES or (isinstance(values, dict) and part == values.get("kind"))):
            continue
        path.append(part)
        with suppress(KeyError, IndexError, TypeError):
            values = values[part]
            continue
        values = None
    return tuple(path)


def _similar_setting(location: Sequence[str | int], parents: Path, root: type[Section]) -> str | None:
    """Return the setting that the unknown one at *location* may mean: of this name elsewhere, or of a similar name.

    *parents* is the path in the file of the section that it is in.
    """
    unknown = str(location[-1])
    same = [name for name in all_settings(root) if name.rpartition(".")[2] == unknown]
    near = [name for name in same if name.split(".")[0] == parents[0]] if parents else []
    if len(near or same) == 1 and "." in (near or same)[0]:
        return (near or same)[0]
    similar = closest(unknown, _settings_at(location[:-1], root))
    return ".".join([*map(str, parents), similar]) if similar else None


def all_settings(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings of *section* and its sections, those of all kinds of a union."""
    for name, info in section.model_fields.items():
        yield f"{prefix}{name}"
        for inner in dict.fromkeys(_sections_in(info.annotation)):
            yield from all_settings(inner, f"{prefix}{name}.")


def _settings_at(path: Sequence[int | str], root: type[Section]) -> list[str]:
    """Return the settings of the section at *path*."""
    return sorted({name for section in _sections_at(path, root) for name in section.model_fields})


def _description(path: Sequence[int | str], root: type[Section]) -> str | None:
    """Return the description of the setting at *path*, without the final period."""
    fields = [section.model_fields.get(str(path[-1])) for section in _sections_at(path[:-1], root)]
    return next((field.description.rstrip(".") for field in fields if field and field.description), None)


def _sections_at(path: Sequence[int | str], root: type[Section]) -> list[type[Section]]:
    sections: list[type[Section]] = [root]
    for part in path:
        fields = [section.model_fields[str(part)] for section in sections if str(part) in section.model_fields]
        tagged = [section for section in sections if part in get_args(_kind(section))]
        if tagged:  # the tag of a union
            sections = tagged
        elif fields:  # otherwise a list index
            sections = [section for field in fields for section in _sections_in(field.annotation)]
    return sections


def _kind(section: type[Section]) -> Any:
    field = section.model_fields.get("kind")
    return None if field is None else field.annotation


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)

"""`${NAME}` and `${NAME:-default}` in the configuration's strings."""

from __future__ import annotations

import os
import re

from vecap_tasks.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
_VARIABLE_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


def expand(text: str) -> str:
    """Replace `${NAME}` and `${NAME:-default}` by the environment's values; a default may hold variables itself.

    Raises ConfigError for a variable that is not set and has no default.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = os.environ.get(name) or default
        if found is None:
            raise ConfigError(f"the configuration uses ${{{name}}}, which is not set; export {name}=… first")
        return found

    for _ in range(text.count("${")):  # from the inside out; what a value holds is bounded, were it to name itself
        text = _VARIABLE.sub(value, text)
    return text


def expand_optional(text: str | None) -> str | None:
    """Return `expand(text)`; None for a setting that is unset, or whose variables are all empty."""
    return (expand(text) or None) if text else None


def environment(text: str) -> tuple[tuple[str, str | None], ...]:
    """Return the variables that *text* names, by name, with their values here; None where one is not set."""
    names = sorted({match.group(1) for match in _VARIABLE_NAME.finditer(text)})
    return tuple((name, os.environ.get(name)) for name in names)

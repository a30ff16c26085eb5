"""Keeps secrets from environment variables out of messages, logs and stored data (docs/operate.md, "Secrets").

`learn` decides which values are secret when the configuration expands `${NAME}`. `redact` is for messages and log
records. `conceal` and `reveal` are for stored URLs and texts: they hold `${NAME}` in place of the value.
"""

from __future__ import annotations

import html
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote

_WORDS = (
    "TOKENS?|SECRETS?|PASS|PASSWORDS?|PASSWD|PASSPHRASE|PWD|PW|KEYS?|APIKEY|CREDENTIALS?|AUTH|AUTHORIZATION|"
    "SIGNATURE|SIG|SAS|COOKIES?|SESSION"
)
_SECRET_NAME = re.compile(rf"(?:\A|[_.-])(?:{_WORDS})(?:\Z|[_.-])|PASSWORD|SECRET|TOKEN\Z|APIKEY", re.IGNORECASE)
_HARMLESS_NAME = re.compile(r"\A(?:OLD)?PWD\Z|_(?:FILE|PATH|DIR|FOLDER|ENV|ID)\Z", re.IGNORECASE)
_ORDINARY = re.compile(r"[A-Za-z]*|[\d.,:+-]*(?:T[\d:.]*)?Z?")  # words, numbers, dates
_COUNT = re.compile(r"\d{1,9}")
_QUERY_SCHEME = re.compile(r"(?!s3|gs|az|file|sqlite)[A-Za-z][A-Za-z0-9+.-]*://")  # in others a `?` is part of a glob
_MIN_CHARS = 6  # shorter values also occur in other texts; they are replaced only as a whole value in a URL's query
_USERINFO = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#"'<>`\\]*@""")
_WRITTEN_USERINFO = re.compile(r"://((?:\$\{[^{}]*\}|[^\s/?#])*)@")
_LABEL = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(?::[^{}]*)?\}")

_lock = threading.Lock()
_values: dict[str, str] = {}  # label -> value
_labels: dict[str, str] = {}  # a form of a value -> label
_pattern: re.Pattern[str] | None = None


def learn(text: str, expanded: str, variables: Mapping[str, str]) -> None:
    """Remember the secrets in *expanded*, which is *text* with the values of *variables*.

    Secret are values of variables with such a name (`…_TOKEN`, `…_PASSWORD`, `…_KEY`), and what comes from a variable
    in a URL's user information or query. Values that name an existing file are not.
    """
    for name, value in variables.items():
        if _SECRET_NAME.search(name) and not _HARMLESS_NAME.search(name):
            learn_value(name, value)
    if "://" not in expanded:
        return
    if written := _WRITTEN_USERINFO.search(text):  # a value may have characters that end the user information of a URL
        password = written[1].partition(":")[2] or written[1]
        for name in variables:
            if f"${{{name}" in password:
                _add(f"${{{name}}}", variables[name])
    for part, value in _sensitive_parts(expanded):
        if value in text or unquote(value) in text:  # written in the configuration
            continue
        sources = [name for name, found in variables.items() if value in found or unquote(value) in found]
        whole = [name for name in sources if variables[name] in (value, unquote(value))]
        ordinary = len(value) < _MIN_CHARS or _ORDINARY.fullmatch(value)
        if ordinary and not any(map(_SECRET_NAME.search, (part, *whole))):
            continue
        if whole:
            _add(f"${{{whole[0]}}}", variables[whole[0]])
        else:
            name = sources[0] if sources else next(iter(variables))
            _add(f"${{{name}:{part}}}", unquote(value))


def learn_value(name: str, value: str | None) -> None:
    """Remember *value* of the variable *name* as a secret, unless it is short, a count, or names an existing file."""
    if value and len(value) >= _MIN_CHARS and not _COUNT.fullmatch(value) and not _is_file(value):
        _add(f"${{{name}}}", value)


def _is_file(value: str) -> bool:
    try:
        return value.startswith(("/", "./", "../", "~")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _sensitive_parts(url: str) -> Iterator[tuple[str, str]]:
    """Yield the name and value of the user information's parts and of the query's parameters."""
    for match in _USERINFO.finditer(url):
        user, _, password = match[0].rpartition("@")[0].partition("://")[2].partition(":")
        yield from (("password", password), ("user", user)) if password else (("password", user),)
    query = url.partition("#")[0].partition("?")[2] if _QUERY_SCHEME.match(url) else ""
    for pair in filter(None, re.split("[&;]", query)):
        name, separator, value = pair.partition("=")
        yield (name, value) if separator else ("query", name)


def _add(label: str, value: str) -> None:
    global _pattern
    with _lock:
        if _values.get(label) == value:
            return
        _values[label] = value
        _labels.update(dict.fromkeys(_forms(value), label))
        _pattern = re.compile("|".join(map(_form_pattern, sorted(_labels, key=len, reverse=True))))


def _forms(value: str) -> set[str]:
    """Return *value* as it appears in texts, URLs, JSON, HTML and Python literals."""
    forms = {value, " ".join(value.split()), quote(value), quote(value, safe=""), quote_plus(value)}
    forms |= {quote(value, safe="/:@!$&()*+,;=?%"), html.escape(value), repr(value)[1:-1]}
    forms |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return {form for form in forms if form}


def _form_pattern(form: str) -> str:
    if len(form) >= _MIN_CHARS:
        return re.escape(form)
    return rf"(?<=[=]){re.escape(form)}(?![^&;#\s\"'<>)])"


def any_known() -> bool:
    """Return whether a secret is known."""
    return _pattern is not None


def values() -> list[str]:
    """Return the known secrets."""
    return list(_values.values())


def conceal(text: str) -> str:
    """Return *text* with `${NAME}` in place of secrets."""
    return text if _pattern is None else _pattern.sub(lambda match: _labels[match[0]], text)


def redact(text: str) -> str:
    """Return *text* with `${NAME}` in place of secrets, and without the user information of URLs."""
    text = conceal(text)
    return _USERINFO.sub(r"\1***@", text) if "@" in text else text


def reveal(url: str) -> str:
    """Return the canonical *url* with secrets in place of `${NAME}`, which a canonical URL cannot contain otherwise."""
    if "${" not in url:
        return url
    path, mark, query = url.partition("?")
    path = _LABEL.sub(lambda match: quote(_values.get(match[0], match[0]), safe="/:@!$&()*+,;=%{}"), path)
    query = _LABEL.sub(lambda match: quote(_values.get(match[0], match[0]), safe="${}%"), query)
    return path + mark + query


def redact_all(value: Any) -> Any:
    """Return the JSON value *value* with `redact` applied to its strings, except the keys of mappings."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return value


def redact_record(record: logging.LogRecord) -> logging.LogRecord:
    """Redact the message and traceback of *record* in place, and return it."""
    try:
        message = record.getMessage()
    except Exception:  # its arguments do not fit: logging would print them
        record.msg, record.args = redact(f"{record.msg} {record.args!r}"), ()
        return record
    if (clean := redact(message)) != message:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[1] is not None:
        trace = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if (clean := redact(trace)) != trace:
            record.exc_info, record.exc_text = None, clean
    elif record.exc_text:
        record.exc_text = redact(record.exc_text)
    return record


def install() -> None:
    """Redact all log records and uncaught exceptions of this process."""
    factory = logging.getLogRecordFactory()
    if getattr(factory, "redacts", False):
        return

    def make_record(*arguments: Any, **options: Any) -> logging.LogRecord:
        return redact_record(factory(*arguments, **options))

    make_record.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_record)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_exception


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))

"""Publishes an export as a dataset repository on the Hugging Face Hub. Only `--push-to-hub` imports this module.

The shards are uploaded first, the card and `export.json` last: a new repository without a card is not complete. Running
the command again uploads only what is missing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.tqdm import disable_progress_bars

from vecap_tasks import redaction
from vecap_tasks.errors import ConfigError, PermanentError, VecapError, format_error
from vecap_tasks.export.target import RECORD

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_LAST = ("README.md", RECORD)
_CREATED_BY_HUB = {".gitattributes", "README.md"}
_TYPE = "dataset"


class Repository:
    """The dataset repository *name*, `OWNER/NAME`. Raises ConfigError if the name is invalid or there is no token."""

    def __init__(self, name: str) -> None:
        if not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name:
            raise ConfigError(f"--push-to-hub: {name} is not a repository; write OWNER/NAME")
        token = get_token()
        if not token:
            raise ConfigError(
                "--push-to-hub needs a token: set HF_TOKEN to one with write access "
                "(https://huggingface.co/settings/tokens)"
            )
        redaction.learn_value("HF_TOKEN", token)
        self._name = name
        self._api = HfApi(token=token, library_name="vecap")
        if not sys.stderr.isatty():
            disable_progress_bars()

    @property
    def url(self) -> str:
        return f"{self._api.endpoint}/datasets/{self._name}"

    def push(self, folder: Path, message: str) -> None:
        """Upload the export in *folder*, with *message* as the title of the commits.

        A new repository is private. Files of an earlier export are replaced. Raises PermanentError if the repository
        has other files, and VecapError if the Hub refuses or does not answer.
        """
        with self._errors():
            self._api.create_repo(self._name, repo_type=_TYPE, private=True, exist_ok=True)
            found = set(self._api.list_repo_files(self._name, repo_type=_TYPE))
        own = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        others = sorted(found - own - _CREATED_BY_HUB)
        if others and RECORD not in found:
            raise PermanentError(f"{self.url} has other files, such as {others[0]}; push to another repository")
        stale = [escape(name) for name in others]
        options: dict[str, Any] = {"repo_id": self._name, "repo_type": _TYPE, "commit_message": message}
        with self._errors():
            self._api.upload_folder(
                folder_path=folder, ignore_patterns=list(_LAST), delete_patterns=stale or None, **options
            )
            self._api.upload_folder(folder_path=folder, allow_patterns=list(_LAST), **options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # those of the HTTP client, of uploads and of the Hub have no other base class
            raise VecapError(
                f"cannot push to {self.url}: {_reason(error)}; check HF_TOKEN and the repository, and run the same "
                "command again"
            ) from error


def _reason(error: BaseException) -> str:
    """Return why a request failed, in one line."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # "Error while uploading"
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        message = error.server_message or error.response.reason_phrase
        return f"HTTP {error.response.status_code}: {' '.join(message.split())}"
    return format_error(error)

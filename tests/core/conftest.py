"""A minimal stage, and stores on a file system and on S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import ShardOutput, ShardResult
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.store import Store


class Letters(Stage):
    """Four shards of one letter each; the end of the stage writes their number."""

    name: ClassVar[str] = "crawl"

    def identity(self) -> dict[str, Any]:
        return {"letters": "abcd"}

    def shards(self) -> list[str]:
        return list("abcd")

    def process(self, shard: str, work: Path) -> ShardOutput:
        (work / f"{shard}.txt").write_text(shard * 10)
        return ShardOutput({f"{shard}.txt": 10}, {"letters": 1})

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        (work / "count.txt").write_text(str(len(results)))
        (work / "page.html").write_text("created at some time")
        return ShardOutput({"count.txt": None}, {"files": 1}, attachments=("page.html",))


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of an empty store, on a file system and on S3."""
    if request.param == "file":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue('s3_bucket')}/some/prefix"


@pytest.fixture
def store(root: str) -> Store:
    return Store(root)


@pytest.fixture
def letters_config(root: str, demo_config: Config) -> Config:
    return demo_config.model_copy(update={"root": root})

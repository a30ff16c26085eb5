"""Fixtures: a web server, and crawls of its pages."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.crawl.web import Web
from vecap_tasks.config import Config, FetchConfig
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.version import Version
from vecap_tasks.crawl.stage import Crawl


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


@pytest.fixture
def fetch_config(web: Web) -> Callable[..., FetchConfig]:
    """Return a function for fetch settings that send all requests for `*.example` to the server."""

    def make(**values: Any) -> FetchConfig:
        defaults = {
            "connect_to": {"*.example": f"127.0.0.1:{web.port}"},
            "allow_networks": ["127.0.0.0/8"],
            "retries": 0,
            "deadline": 5,
        }
        return FetchConfig(**(defaults | values))

    return make


@pytest.fixture
def configure(web: Web, demo_config: Config, fetch_config: Callable[..., FetchConfig]) -> Callable[..., Config]:
    """Return a function that configures a crawl from *source*, as in YAML."""

    def make(source: dict[str, Any], fetch: dict[str, Any] | None = None, **crawl: Any) -> Config:
        values = demo_config.model_dump()
        values["crawl"] |= {"source": source, "fetch": fetch_config(**(fetch or {})).model_dump(), **crawl}
        return Config.model_validate(values).with_base(demo_config.base)

    return make


def stage_of(config: Config) -> Crawl:
    return Crawl(config, Version(config.dataset, "2026-01-01", 1, "f" * 64))


def crawl(config: Config) -> tuple[Crawl, Manifest]:
    """Run the stage in this process and return it with its manifest."""
    stage = stage_of(config)
    for shard in stage.plan():
        stage.run(shard)
    return stage, stage.commit()


@pytest.fixture
def seeds() -> Callable[..., dict[str, Any]]:
    return lambda *urls, **more: {"kind": "site", "seeds": list(urls), **more}


@pytest.fixture
def free_port() -> int:
    """Return an unused port of localhost."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

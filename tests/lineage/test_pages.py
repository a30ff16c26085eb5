"""URLs of MLflow's UI."""

from __future__ import annotations

import pytest

from tests.conftest import DEMO
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.mlflow_tracking import tracking_uri
from vecap_tasks.errors import ConfigError
from vecap_tasks.lineage.mlflow_notes import page_url
from vecap_tasks.local.settings import Settings

PAGE = "#/experiments/1/runs/2"


@pytest.mark.parametrize(
    ("uri", "ui_url", "base"),
    [
        ("", "", None),  # MLflow is a SQLite file
        ("http://127.0.0.1:5000/", "", "http://127.0.0.1:5000"),
        ("http://mlflow:5000", "https://mlflow.example/ui/", "https://mlflow.example/ui"),
        ("", "https://mlflow.example", "https://mlflow.example"),
        ("https://bot:secret@mlflow.example", "", "https://mlflow.example"),
    ],
)
def test_links_use_the_ui_url_and_are_none_without_a_server(
    demo_config: Config, monkeypatch: pytest.MonkeyPatch, uri: str, ui_url: str, base: str | None
) -> None:
    monkeypatch.setenv("VECAP_MLFLOW_URI", uri)
    monkeypatch.setenv("VECAP_MLFLOW_UI_URL", ui_url)
    assert page_url(demo_config, PAGE) == (base and f"{base}/{PAGE}")


def test_local_services_link_to_their_own_mlflow(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECAP_MLFLOW_PORT", "5123")
    for name, value in Settings.from_environment().environment().items():
        monkeypatch.setenv(name, value)
    assert page_url(load_config(DEMO), PAGE) == f"http://127.0.0.1:5123/{PAGE}"


def test_an_empty_tracking_uri_is_an_error(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    config = load_config(DEMO, ["mlflow.tracking_uri=${NO_SUCH:-}"])
    with pytest.raises(ConfigError, match=r"mlflow\.tracking_uri is empty"):
        tracking_uri(config)

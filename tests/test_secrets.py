"""Secrets from environment variables: a canary must not appear in messages, logs, tables, tars, MLflow or reports."""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.crawl.conftest import configure, fetch_config, seeds, stage_of, web  # noqa: F401 - fixtures
from tests.crawl.web import Answer, Web
from tests.installation import REPOSITORY
from vecap_tasks import redaction
from vecap_tasks.cli.__main__ import main
from vecap_tasks.config import Config, expand, load_config, parse_config
from vecap_tasks.core.executor import Job
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.errors import Failure, VecapError, format_error

CANARY = "c4nary/Zq8+11=="  # with characters that URLs encode
ENCODED = "c4nary%2FZq8%2B11%3D%3D"
INTERVAL = "2026-01-01"


@pytest.fixture(autouse=True)
def no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_values", {})
    monkeypatch.setattr(redaction, "_labels", {})
    monkeypatch.setattr(redaction, "_pattern", None)


@pytest.mark.parametrize(
    ("name", "value", "text", "shown"),
    [
        ("CANARY", CANARY, "https://bot:${CANARY}@a.example/", "https://***@a.example/"),
        ("CANARY", "letters", "https://bot:${CANARY}@a.example/", "https://***@a.example/"),
        ("CANARY", CANARY, "https://a.example/?k=${CANARY}", "https://a.example/?k=${CANARY}"),
        ("SITE_TOKEN", CANARY, "https://a.example/${SITE_TOKEN}/", "https://a.example/${SITE_TOKEN}/"),
        ("MLFLOW", "http://u:pw@host:5000", "${MLFLOW}", "http://***@host:5000"),
        ("SEED", f"https://a.example/?sig={ENCODED}", "${SEED}", "https://a.example/?sig=${SEED:sig}"),
        ("DB_PASSWORD", "pw", "https://a.example/?p=${DB_PASSWORD}", "https://a.example/?p=${DB_PASSWORD}"),
    ],
)
def test_secrets_are_not_shown(name: str, value: str, text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    expanded = expand(text)
    assert redaction.redact(f"cannot read {expanded}") == f"cannot read {shown}"
    assert str(VecapError(f"cannot read {expanded}")) == f"cannot read {shown}"
    assert Failure("timeout", expanded).message == f"timeout: {shown}"
    assert format_error(OSError(expanded)) == f"OSError: {shown}"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("VECAP_HOME", "/home/user", "${VECAP_HOME}/store"),
        ("VECAP_WEB_PORT", "8765", "127.0.0.1:${VECAP_WEB_PORT}"),
        ("DAY", "2026-01-01", "https://a.example/?day=${DAY}"),
        ("LANGUAGE", "english", "https://a.example/?lang=${LANGUAGE}"),
        ("MAX_TOKENS", "128000", "${MAX_TOKENS}"),
        ("TLS_KEY", __file__, "${TLS_KEY}"),
        ("DB_PASSWORD", "pw", "${DB_PASSWORD}"),
        ("HOST", "a.example", "https://${HOST}/index.html?page=contents1"),
        ("BUCKET", "images7", "s3://b/day?/${BUCKET}/*.tar"),
    ],
)
def test_ordinary_values_are_not_redacted(name: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    expanded = expand(text)
    assert redaction.redact(f"{expanded} and {value}") == f"{expanded} and {value}"


def test_stored_urls_name_the_variable_and_lead_back_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_TOKEN", CANARY)
    expand("${SITE_TOKEN}")
    for url in (f"http://a.example/i.png?token={ENCODED}&w=3", "http://a.example/c4nary/Zq8+11==/i.png"):
        stored = redaction.conceal(url)
        assert "${SITE_TOKEN}" in stored
        assert redaction.reveal(stored) == url
    assert redaction.reveal("http://a.example/?q=$%7BSITE_TOKEN%7D") == "http://a.example/?q=$%7BSITE_TOKEN%7D"


def test_log_records_and_tracebacks_are_redacted(
    demo_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANARY_TOKEN", CANARY)
    values = demo_config.model_dump() | {"root": "${CANARY_TOKEN}/store"}
    parse_config(values, demo_config.base)
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("aiohttp.client")
    logger.addHandler(handler)
    try:
        try:
            raise ValueError(f"bad header {CANARY}")
        except ValueError:
            logger.exception("failed: %s", {"url": f"http://a.example/?x={CANARY}"})
        logger.error("two values: %s %s", CANARY)  # logging prints the arguments of such a call
    finally:
        logger.removeHandler(handler)
    assert "c4nary" not in out.getvalue() + capsys.readouterr().err
    assert "two values: %s %s ('${CANARY_TOKEN}',)" in out.getvalue()
    assert "ValueError: bad header ${CANARY_TOKEN}" in out.getvalue()


def test_dask_does_not_log_the_environment_of_a_job(demo_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    config = demo_config.model_copy(update={"root": "/data/${CANARY}"})
    job = Job.from_stage(stage_of(config))
    assert ("CANARY", CANARY) in job.environment
    assert "c4nary" not in repr(job)


def test_an_uncaught_exception_is_redacted() -> None:
    code = (
        "from pathlib import Path\nfrom vecap_tasks.config import load_config\n"
        f"load_config({str(REPOSITORY / 'configs' / 'demo.yaml')!r}, ['root=${{MY_TOKEN}}'])\n"
        "import os\nraise RuntimeError('lost ' + os.environ['MY_TOKEN'])"
    )
    env = os.environ | {"MY_TOKEN": CANARY}
    ended = subprocess.run([sys.executable, "-c", code], env=env, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.stderr.endswith("RuntimeError: lost ${MY_TOKEN}\n")
    assert "c4nary" not in ended.stderr


def test_a_password_in_the_url_of_mlflow_is_sent_and_not_shown(
    web: Web,  # noqa: F811
    demo_config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CANARY", "p%40ss-c4nary")
    uri = "http://user:${CANARY}@127.0.0.1:" + str(web.port)
    config = demo_config.model_copy(update={"mlflow": demo_config.mlflow.model_copy(update={"tracking_uri": uri})})
    with pytest.raises(VecapError, match="no MLflow server answers") as raised, open_tracking(config):
        pass
    assert "c4nary" not in str(raised.value)
    assert "HTTP Error 404" in str(raised.value)  # it was reached


def _picture(number: int) -> bytes:
    source = random.Random(number)
    picture = Image.frombytes("RGB", (24, 24), bytes(source.randrange(256) for _ in range(24 * 24 * 3)))
    out = io.BytesIO()
    picture.resize((160, 160)).save(out, "PNG")
    return out.getvalue()


def _serve(site: Web, count: int = 12) -> None:
    """Serve a page that needs the token and repeats it: in links, texts, images and a failing image."""
    images = "".join(
        f'<img src="/{n}.png?token={ENCODED}" alt="A red heron number {n} near the river {CANARY}">'
        for n in range(count)
    )
    page = f"<title>For {CANARY}</title>{images}<img src='/none.png?token={ENCODED}' alt='A lost picture of a boat'>"
    site.answers[f"/?token={CANARY}"] = Answer(page.encode(), headers={"Content-Type": "text/html; charset=utf-8"})
    for number in range(count):
        site.answers[f"/{number}.png?token={CANARY.replace('/', '%2F')}"] = Answer(b"wrong")
        site.answers[f"/{number}.png?token={ENCODED}"] = Answer(_picture(number), headers={"Content-Type": "image/png"})


def _leaks(folder: Path) -> list[str]:
    """Return the files below *folder* that contain the canary in any encoding, also within tables and databases."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            content += json.dumps(table.to_pylist(), default=str).encode() + str(table.schema.metadata).encode()
        elif content.startswith(b"SQLite format 3"):
            with sqlite3.connect(path) as database:
                content += "\n".join(database.iterdump()).encode()
        if b"c4nary" in content:
            found.append(str(path.relative_to(folder)))
    return found


def _pages(file: Path, config: Config, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the HTML of the pages for the crawl, by path."""
    import tests.plugins.conftest  # noqa: F401 - sets Airflow's folders

    app = importlib.import_module("vecap_airflow.pages.app")
    changed = load_config(file.with_name("config.yaml"), overrides[1::2])
    file.write_text(changed.model_dump_json(), encoding="utf-8")
    monkeypatch.setenv("VECAP_CONFIG", str(file))
    monkeypatch.setattr(app, "may_change", lambda user: False)
    for dependency in (app.get_user, app.requires_view):
        monkeypatch.setitem(app.app.dependency_overrides, dependency, lambda: None)
    client = TestClient(app.app)
    paths = [
        f"/versions/{INTERVAL}/samples",
        f"/versions/{INTERVAL}/quarantine",
        f"/lineage?name={INTERVAL}",
        "/versions",
    ]
    answers = {path: client.get(path) for path in [*paths]}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(paths, 200)
    return {path: answer.text for path, answer in answers.items()}


@pytest.mark.slow
def test_the_canary_is_nowhere(
    web: Web,  # noqa: F811
    configure: Callable[..., Config],  # noqa: F811
    seeds: Callable[..., dict[str, Any]],  # noqa: F811
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    _serve(web)
    config = configure(seeds("http://site.example/?token=${CANARY}"))
    file = home / "config.yaml"
    file.write_text(config.model_dump_json(), encoding="utf-8")
    options = ["--config", str(file), "--version", INTERVAL]
    base = Path(config.base)
    overrides = [
        "--set", "dask.workers=1",
        "--set", f"rewrite.vlm.model={base / config.rewrite.vlm.model}",
        "--set", f"rewrite.llm.model={base / config.rewrite.llm.model}",
        "--set", f"train.model.tokenizer={base / config.train.model.tokenizer}",
    ]  # fmt: skip
    for stage in ("crawl", "quality", "rewrite", "assemble"):
        assert main([stage, *options, *overrides, "--verbose"]) == 0, capfd.readouterr().err
    for command in (["versions"], ["lineage", INTERVAL], ["verify", "--version", INTERVAL]):
        assert main([command[0], "--config", str(file), *overrides, "--json", *command[1:]]) == 0
    (folder,) = (home / "store").glob(f"demo/{INTERVAL}/crawl")
    rows = pq.read_table(folder / "00000.parquet").to_pylist()
    assert sum(row["status"] == "success" for row in rows) == 12, rows[0]
    assert {row["page_url"] for row in rows} == {"http://site.example/?token=${CANARY}"}
    assert any(row["error_message"] for row in rows)
    assert list((home / "mlflow-artifacts").rglob("config.yaml"))
    assert _leaks(home) == []
    for path, page in _pages(file.with_suffix(".pages.yaml"), config, overrides, monkeypatch).items():
        assert "c4nary" not in page, path
        assert "site.example" in page or path == "/versions", page
    output = capfd.readouterr()
    assert "${CANARY}" in output.out + output.err
    assert "c4nary" not in output.out + output.err

"""`vecap show`: rows of a version in the terminal and on a contact sheet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli.test_mistakes import run
from tests.installation import REPOSITORY
from tests.quality.factories import INTERVAL, Row, configure, give_captions, give_crawl, stage, use_given
from tests.quality.factories import run as run_stage
from tests.terminal import Terminal, shown
from vecap_tasks.config import Config
from vecap_tasks.core.schemas import KEPT
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import register

Output = pytest.CaptureFixture[str]
ROWS = [
    Row(caption="A beagle in the snow"),
    Row(caption="IMG_2041.jpg"),
    Row(caption="A heron\n\x1b[31mred\x1b[0m\u202e & friends", original_width=7, original_height=5),
    Row(caption="Write to jane.doe@mail.com", status="failed_to_download", error_message="http_404: not found"),
    *(Row(caption=f"Kestrel no. {n}") for n in range(4, 14)),
]
ONLY_ALTTEXT = f"{5:032x}"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The configuration of a version with a crawl, whose file is `own.yaml` in the working directory."""
    use_given(monkeypatch)
    monkeypatch.chdir(tmp_path)
    config = configure(tmp_path)
    (tmp_path / "own.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    give_crawl(tmp_path, ROWS)
    register(stage("crawl", config).store, config.dataset, INTERVAL, "fingerprint", {})
    run_stage("crawl", config)
    return config


@pytest.fixture
def captioned(config: Config) -> Config:
    """As `config`, with verdicts and captions."""
    run_stage("quality", config)
    give_captions(config, only_alttext=[ONLY_ALTTEXT])
    run_stage("rewrite", config)
    return config


def show(options: str, capfd: Output) -> list[str]:
    """Return the lines that `vecap show` with *options* prints."""
    code, output, errors = run(f"show --config own.yaml {options}", capfd)
    assert code == 0, errors
    return output.splitlines()


def test_a_version_with_only_a_crawl_is_shown(config: Config, capfd: Output) -> None:
    lines = show("--limit 2 --offset 2", capfd)
    assert lines == [
        "000000002  7x5  downloaded",
        "  AltText  A heron [31mred [0m & friends",  # nothing that controls a terminal
        "  https://host2.example/2.jpg",
        "",
        "000000003  64x48  failed_to_download (http_404: not found)",
        "  AltText  (hidden: contains private data)",
        "  https://host0.example/3.jpg",
        "",
        "2026-01-01: 3 to 4 of 14 rows",
    ]
    code, _, errors = run("show --config own.yaml --accepted", capfd)
    assert (code, errors) == (
        1,
        "vecap: version 2026-01-01 has no verdicts; run `vecap quality --version 2026-01-01` first\n",
    )


def test_verdicts_and_generated_texts_are_shown(captioned: Config, capfd: Output) -> None:
    lines = show("--limit 3", capfd)
    assert lines[:9] == [
        "000000000  64x48  accepted",
        "  AltText  A beagle in the snow",
        "  VeC      a picture numbered 0",
        "  VeCap    A beagle in the snow a picture numbered 0",
        "  https://host0.example/0.jpg",
        "",
        "000000001  64x48  accepted",
        "  AltText  IMG_2041.jpg  (file_name)",
        "  VeC      a picture numbered 1",
    ]
    assert lines[9] == "  VeCap    a picture numbered 1  (from vec)"
    assert lines[12] == "000000002  7x5  rejected: too_small"
    (fallback,) = json.loads("\n".join(show("--search 'kestrel no. 5' --json", capfd)))["rows"]
    assert (fallback["vec"], fallback["vecap_from"], fallback["verdict"]) == (None, "alttext", "accepted")


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ("--rejected", [2, 3]),
        ("--refused", [2, 3]),
        ("--accepted --limit 3", [0, 1, 4]),
        ("--rule too_small", [2]),
        ("--rule http_404", [3]),
        ("--rule file_name", [1]),
        ("--rejected --rule file_name", []),
        ("--search BEAGLE", [0]),
        ("--search host1.example --accepted --limit 2 --offset 1", [4, 7]),
        ("--search %", []),
        ("--search 'numbered 4'", [4]),
        ("--limit 0", []),
    ],
)
def test_filters_work_alone_and_together(captioned: Config, capfd: Output, options: str, keys: list[int]) -> None:
    found = json.loads("\n".join(show(f"{options} --json", capfd)))
    assert [int(row["uid"], 16) for row in found["rows"]] == keys
    assert found["total"] >= len(keys)


def test_an_unknown_rule_names_those_that_exist(captioned: Config, capfd: Output) -> None:
    code, _, errors = run("show --config own.yaml --rule to_small", capfd)
    assert code == 1
    assert errors.startswith("vecap: version 2026-01-01 has no rows with to_small; did you mean too_small?")
    assert "file_name, http_404" in errors


def test_a_contact_sheet_has_images_and_texts(captioned: Config, tmp_path: Path, capfd: Output) -> None:
    code, output, errors = run("show --config own.yaml --limit 4 --out sheet.png", capfd)
    assert (code, errors) == (0, "wrote sheet.png\n")
    assert "1 to 4 of 14 rows" in output
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (sheet.format, sheet.width) == ("PNG", 1400)
        pixels = sheet.convert("RGB")
        (width, height) = pixels.size
    for number, (left, top) in enumerate([(0, 0), (width // 2, 0), (0, height // 2), (width // 2, height // 2)]):
        colors = pixels.crop((left + 10, top + 20, left + 140, top + height // 2 - 20)).getcolors(1 << 16)
        _, color = max(colors)
        expected = (255, 255, 255) if number == 3 else (number, 0, 90)  # the last row has no image
        assert max(abs(a - b) for a, b in zip(color, expected, strict=True)) < 8


def test_a_contact_sheet_of_a_crawl_has_no_generated_texts(config: Config, tmp_path: Path, capfd: Output) -> None:
    show("--limit 2 --out crawl.png", capfd)
    with Image.open(tmp_path / "crawl.png") as sheet:
        assert sheet.size == (1400, 160)
    show("--search nothing-like-this --out none.png", capfd)
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--out sheet.jpg", "--out sheet.jpg: the contact sheet is a PNG; end the name with .png"),
        ("--out no/sheet.png", "--out no/sheet.png: the folder no does not exist; create it"),
        ("--out sheet.png --limit 201", "a contact sheet has at most 200 rows; lower --limit, and use --offset"),
        ("--limit -1", "--limit and --offset must be 0 or more"),
        ("--version 2026-01-01-r3", "dataset given has no version 2026-01-01-r3; its versions are: 2026-01-01"),
    ],
)
def test_bad_options_are_one_line(config: Config, capfd: Output, options: str, expected: str) -> None:
    code, output, errors = run(f"show --config own.yaml {options}", capfd)
    assert (code, output, errors) == (1, "", f"vecap: {expected}\n")


def test_the_newest_version_with_a_crawl_is_the_default(config: Config, capfd: Output) -> None:
    store = Store(config.resolve(config.root))
    register(store, config.dataset, "2026-01-02", "other", {})
    assert show("--limit 0", capfd) == ["2026-01-01: none of 14 rows"]
    code, _, errors = run("show --config own.yaml --version 2026-01-02", capfd)
    says = "vecap: the crawl of version 2026-01-02 is not finished; run `vecap crawl --version 2026-01-02` first\n"
    assert (code, errors) == (1, says)
    store.remove_folder(f"{config.dataset}/2026-01-01")
    code, _, errors = run("show --config own.yaml", capfd)
    assert (code, "no version with a finished crawl; run `vecap run`" in errors) == (1, True)


def test_rows_of_a_version_that_the_gate_rejected_are_shown(config: Config, capfd: Output) -> None:
    quality = stage("quality", config)
    for shard in quality.plan():  # no commit
        quality.run(shard)
    assert "  rejected: too_small" in show("--rejected", capfd)[0]


def test_long_texts_are_wrapped_on_a_terminal(captioned: Config, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vecap_tasks.cli", "show", "--config", "own.yaml", "--limit", "1"]
    terminal = Terminal.start(command, cwd=tmp_path, columns=40, env={"PYTHONPATH": str(REPOSITORY), "PATH": ""})
    assert terminal.wait() == 0, terminal.output
    assert shown(terminal.output)[3:5] == ["  VeCap    A beagle in the snow a", "           picture numbered 0"]


def test_kept_columns_are_shown_and_searched(config: Config, tmp_path: Path, capfd: Output) -> None:
    for path in (tmp_path / "store").rglob("crawl/0*.parquet"):
        kept = [json.dumps({"sku": f"S-{row['key']}", "price": 7, "file_name": None}) for row in read_rows(path)]
        pq.write_table(pq.read_table(path).append_column(KEPT, pa.array(kept)), path)
    lines = show("--search s-000000003", capfd)
    assert lines[0].startswith("000000003 ")
    assert "  kept     sku: S-000000003, price: 7, file_name: null" in lines
    assert lines[-1] == "2026-01-01: 1 to 1 of 1 rows"
    (row,) = json.loads("\n".join(show("--search s-000000003 --json", capfd)))["rows"]
    assert row["kept"] == {"sku": "S-000000003", "price": 7, "file_name": None}
    assert show("--search sku", capfd)[-1] == "2026-01-01: none of 0 rows"  # a name, not a value


def read_rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()

"""The documentation shows valid configuration and commands, and its generated pages are current."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DEMO, REPOSITORY
from tools import reference, vocabulary
from vecap_tasks.cli.__main__ import build_parser
from vecap_tasks.config import parse_config, read_yaml

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]
COMMANDS = [
    pytest.param(command, id=f"{page.name}: {command}"[:90])
    for page in PAGES
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for command in re.findall(
        r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(vecap (?:[a-z]|--).*)$",
        block.replace("\\\n", " "),
        re.MULTILINE,
    )
]
SOURCES = [
    source
    for page in ("crawl.md", "own-data.md")
    for source in re.findall(r"`(\{kind: .*?\})`", (REPOSITORY / "docs" / page).read_text(encoding="utf-8"))
]


def merged(base: dict, over: dict) -> dict:
    """Return *base* with *over* merged into it by section; a section of another kind replaces that of *base*."""
    if over.get("kind", base.get("kind")) != base.get("kind"):
        return over
    both = {name: merged(base[name], over[name]) for name in base.keys() & over.keys() if isinstance(over[name], dict)}
    return base | over | both


@pytest.mark.parametrize("block", BLOCKS)
def test_a_configuration_in_the_documentation_is_valid(block):
    parse_config(merged(read_yaml(DEMO.read_text(encoding="utf-8")), read_yaml(block)), Path("/"))


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_in_the_documentation_is_valid(source):
    values = read_yaml(DEMO.read_text(encoding="utf-8"))
    values["crawl"]["source"] = read_yaml(source)
    parse_config(values, Path("/"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_are_not_broken(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_the_documentation_exists(command):
    words = shlex.split(command.partition(" #")[0].rstrip(" &"), comments=True)
    words = words[1 : next((at for at, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))]
    build_parser().parse_args([word for word in words if word != "&"])


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse formats help differently in each Python")
@pytest.mark.parametrize("name", reference.PAGES)
def test_a_generated_page_is_current(name):
    page = (reference.FOLDER / name).read_text(encoding="utf-8")
    assert page == reference.PAGES[name](), "run `make docs`"


def test_every_setting_has_a_description():
    page = reference.PAGES["settings.md"]()
    assert [line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")] == []


def test_names_and_prose_use_the_standard_terms():
    assert list(vocabulary.check(REPOSITORY)) == []


def test_the_caption_of_the_arms_chart_names_what_its_bars_show(demo_config):
    before = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("](docs/images/arms.png)")[0]
    caption = before.split("\n\n")[-2]
    confidence = demo_config.evaluate.bootstrap.confidence  # `plot_arms` draws it
    assert f"{100 * confidence:g} % bootstrap intervals" in caption
    assert "deviation" not in caption


def test_the_documentation_has_examples():
    assert len(BLOCKS) >= 4
    assert len(SOURCES) >= 6
    assert len(COMMANDS) >= 30


def test_the_site_builds_without_a_broken_link(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "reference" / "settings" / "index.html").exists()

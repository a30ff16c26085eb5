"""No model folder can run its own Python code: every load says so, and a folder that needs it is one clear error."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from vecap_tasks.config import ModelConfig
from vecap_tasks.core.models import find_checkpoint
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.llm import Llm
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.vlm import Vlm

FOLDERS = ("vecap_tasks", "dags", "plugins", "tools", "benchmarks")
LOADERS = ("from_pretrained", "pipeline")


def loads(file: Path) -> list[ast.Call]:
    """Return the calls in *file* that load a model, tokenizer, processor or configuration."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in LOADERS]


def test_every_load_refuses_remote_code() -> None:
    files = [file for folder in FOLDERS for file in (REPOSITORY / folder).rglob("*.py")]
    calls = [(file, call) for file in files for call in loads(file)]
    assert len(calls) >= 15
    for file, call in calls:
        values = [keyword.value for keyword in call.keywords if keyword.arg == "trust_remote_code"]
        assert [ast.unparse(value) for value in values] == ["False"], f"{file}:{call.lineno}"


@pytest.mark.parametrize("role", ["vlm", "llm"])
@pytest.mark.parametrize(
    ("name", "kinds", "replaced"),
    [
        ("config.json", ("AutoConfig", "AutoModelForCausalLM", "AutoModelForImageTextToText"), {"model_type": "alien"}),
        ("tokenizer_config.json", ("AutoTokenizer",), {"tokenizer_class": "Alien", "processor_class": None}),
        ("processor_config.json", ("AutoProcessor",), {"processor_class": "Alien"}),
    ],
)
def test_a_folder_with_auto_map_neither_runs_nor_asks(
    sandbox, tmp_path: Path, monkeypatch, role: str, name: str, kinds: tuple[str, ...], replaced: dict[str, str]
) -> None:
    """Where transformers has a class of its own the folder loads; otherwise the error is one line."""
    folder = shutil.copytree(getattr(sandbox, role), tmp_path / "alien")
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": questions.append(prompt) or "y")
    file = folder / name
    body = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(body | replaced | {"auto_map": {kind: f"alien.{kind}" for kind in kinds}}))
    (folder / "alien.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    checkpoint = find_checkpoint(sandbox.config(), str(folder))
    settings = ModelConfig(model=str(folder), prompt="fuse", max_new_tokens=8, batch_size=4)
    error = load_error(
        lambda: (
            Vlm(checkpoint, settings, load_prompt("describe"))
            if role == "vlm"
            else Llm(checkpoint, settings, load_prompt("fuse"), 64)
        )
    )
    assert error is not None or name != "config.json"
    if error is not None:
        assert "custom Python code (`auto_map`), which vecap never runs" in error
        assert "\n" not in error
    assert questions == []
    assert not (tmp_path / "ran").exists()


def load_error(load: Callable[[], object]) -> str | None:
    try:
        load()
    except VecapError as error:
        return str(error)
    return None

"""A run logs whether its version is new, complete or a revision, and which settings changed."""

from __future__ import annotations

import pytest

from tests.conftest import DEMO
from tests.core.factories import create_version
from vecap_tasks.cli.__main__ import main
from vecap_tasks.config import Config
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import list_versions, read_version, register, version_status
from vecap_tasks.errors import ConfigError, VecapError


def test_a_version_is_created_then_resumed_then_complete(store: Store) -> None:
    version = register(store, "demo", "2026-01-01", "a", {})
    assert str(version_status(store, version)) == "created version 2026-01-01 (unpublished)"
    create_version(store, "2026-01-01", "a", stages=("crawl",))
    assert str(version_status(store, version)) == "resuming version 2026-01-01 (unpublished)"
    create_version(store, "2026-01-01", "a", stages=("quality", "rewrite", "assemble"))
    status = version_status(store, version)
    assert status.digest is not None
    assert str(status) == f"version 2026-01-01 ({status.digest[:12]}) is already complete; nothing to do"


def test_a_revision_lists_the_settings_that_changed(demo_config: Config) -> None:
    store = Store(demo_config.resolve(demo_config.root))
    first = open_version(demo_config, store, "2026-01-01")
    assert open_version(demo_config, store, "2026-01-01") == first
    rules = demo_config.quality.rows.model_copy(update={"min_side": 64})
    changed = demo_config.model_copy(update={"quality": demo_config.quality.model_copy(update={"rows": rules})})
    second = open_version(changed, store, "2026-01-01")
    status = version_status(store, second)
    assert str(status).startswith(
        "created version 2026-01-01-r2 (unpublished); revision of 2026-01-01: quality.rows.min_side 32 -> 64"
    )
    # Only the digest of the rules depends on it.
    assert {change.key for change in status.changes} == {"quality.rows.min_side", "quality.rules"}


@pytest.mark.parametrize("name", ["2026-02-30", "latest", "2026-01-01-r2", "a b"])
def test_an_invalid_date_or_an_unknown_revision_registers_nothing(
    demo_config: Config, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quality", "--config", str(DEMO), "--version", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert list_versions(Store(demo_config.resolve(demo_config.root)), "demo") == []


def test_a_revision_is_found_only_with_its_own_configuration(demo_config: Config) -> None:
    store = Store(demo_config.resolve(demo_config.root))
    first = open_version(demo_config, store, "2026-01-01")
    assemble = demo_config.assemble.model_copy(update={"license": "CC0-1.0 or later"})
    changed = demo_config.model_copy(update={"assemble": assemble})
    second = open_version(changed, store, "2026-01-01")
    assert open_version(changed, store, "2026-01-01-r2") == second
    with pytest.raises(ConfigError, match="version 2026-01-01-r2 was created with different settings"):
        open_version(demo_config, store, "2026-01-01-r2")
    with pytest.raises(VecapError, match="has no version 2026-01-01-r3; its versions are: 2026-01-01, 2026-01-01-r2"):
        open_version(changed, store, "2026-01-01-r3")
    assert list_versions(store, "demo") == [first, second]


def test_a_version_with_a_free_name_from_an_earlier_release_is_usable(demo_config: Config) -> None:
    store = Store(demo_config.resolve(demo_config.root))
    create_version(store, "week-7", "a")
    assert read_version(store, "demo", "week-7").interval == "week-7"
    assert open_version(demo_config, store, "week-7").name == "week-7-r2"


def test_a_different_model_under_the_same_name_is_a_changed_setting(demo_config: Config, tmp_path) -> None:
    import shutil

    folder = tmp_path / "llm"
    shutil.copytree(demo_config.resolve(demo_config.rewrite.llm.model), folder)
    llm = demo_config.rewrite.llm.model_copy(update={"model": str(folder)})
    own = demo_config.model_copy(update={"rewrite": demo_config.rewrite.model_copy(update={"llm": llm})})
    store = Store(own.resolve(own.root))
    open_version(own, store, "2026-01-01")
    with (folder / "model.safetensors").open("ab") as weights:
        weights.write(b"another training")
    changes = version_status(store, open_version(own, store, "2026-01-01")).changes
    assert [change.key for change in changes] == ["rewrite.llm.digest"]

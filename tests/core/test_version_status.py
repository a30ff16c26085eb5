"""A run is told what it finds: a finished version, or a revision and the settings that made it one."""

from __future__ import annotations

import pytest

from tests.conftest import DEMO
from tests.core.factories import give
from vecap_tasks.cli.__main__ import main
from vecap_tasks.config import Config
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import list_versions, read_version, register, version_status
from vecap_tasks.errors import ConfigError, VecapError


def test_a_first_version_is_made_and_then_found(store: Store) -> None:
    version = register(store, "demo", "2026-01-01", "a", {})
    assert str(version_status(store, version)) == "version 2026-01-01 is made"
    give(store, "2026-01-01", "a")
    found = version_status(store, version)
    assert found.digest is not None
    assert str(found) == (
        f"version 2026-01-01 is published under this configuration ({found.digest[:12]}), nothing of it is made again"
    )


def test_a_revision_says_which_settings_made_it_one(demo_config: Config) -> None:
    store = Store(demo_config.resolve(demo_config.root))
    first = open_version(demo_config, store, "2026-01-01")
    assert open_version(demo_config, store, "2026-01-01") == first
    rules = demo_config.quality.rows.model_copy(update={"min_side": 64})
    changed = demo_config.model_copy(update={"quality": demo_config.quality.model_copy(update={"rows": rules})})
    second = open_version(changed, store, "2026-01-01")
    found = version_status(store, second)
    assert str(found).startswith(
        "version 2026-01-01-r2 is made; it is a revision beside 2026-01-01: quality.rows.min_side 32 -> 64"
    )
    # The digest of the rules as DuckDB runs them follows from it; nothing else does.
    assert {change.key for change in found.changes} == {"quality.rows.min_side", "quality.rules"}


@pytest.mark.parametrize("name", ["2026-02-30", "latest", "2026-01-01-r2", "a b"])
def test_a_name_that_is_no_date_and_a_revision_that_is_not_there_register_nothing(
    demo_config: Config, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quality", "--config", str(DEMO), "--version", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert list_versions(Store(demo_config.resolve(demo_config.root)), "demo") == []


def test_a_revision_is_found_only_under_the_configuration_that_made_it(demo_config: Config) -> None:
    store = Store(demo_config.resolve(demo_config.root))
    first = open_version(demo_config, store, "2026-01-01")
    assemble = demo_config.assemble.model_copy(update={"license": "CC0-1.0 or later"})
    changed = demo_config.model_copy(update={"assemble": assemble})
    second = open_version(changed, store, "2026-01-01")
    assert open_version(changed, store, "2026-01-01-r2") == second
    with pytest.raises(ConfigError, match="this configuration does not make 2026-01-01-r2"):
        open_version(demo_config, store, "2026-01-01-r2")
    with pytest.raises(VecapError, match="has no version 2026-01-01-r3; there are: 2026-01-01, 2026-01-01-r2"):
        open_version(changed, store, "2026-01-01-r3")
    assert list_versions(store, "demo") == [first, second]


def test_a_version_published_under_another_name_by_an_earlier_release_stays_usable(demo_config: Config) -> None:
    store = Store(demo_config.resolve(demo_config.root))
    give(store, "week-7", "a")
    assert read_version(store, "demo", "week-7").interval == "week-7"
    assert open_version(demo_config, store, "week-7").name == "week-7-r2"


def test_another_model_under_the_same_name_is_a_setting_too(demo_config: Config, tmp_path) -> None:
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

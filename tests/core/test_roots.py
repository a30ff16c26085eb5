"""Stages and readers work under a root whose name contains special characters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import DEMO
from tests.core.factories import recorded
from tests.quality.factories import Row, configure, give_captions, give_crawl, run, stage, use_given
from vecap_tasks.config import UrlSource, load_config
from vecap_tasks.core.diff import diff
from vecap_tasks.core.intermediate import read_index
from vecap_tasks.core.retention import take_inventory
from vecap_tasks.core.samples import Filter, Samples
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import list_versions, register
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.crawl.sources.url_list import UrlFiles
from vecap_tasks.quality.quarantine import list_rows
from vecap_tasks.rewrite.reuse import locate_captions, located_files
from vecap_tasks.rewrite.stage import Rewrite

ROWS = [*(Row(caption=f"Beagle no. {n} at the fair") for n in range(14)), Row(caption="IMG_2041.jpg", flat=True)]


def test_stages_read_only_their_own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, as a glob, matches another root with the same files."""
    use_given(monkeypatch)
    folder, decoy = (tmp_path / name / "it's" / other / "key=1" for name, other in (("g[o]", 'ü "*?'), ("go", 'ü "ab')))
    folder.mkdir(parents=True)
    config = configure(folder)

    def copy() -> None:
        shutil.copytree(folder / "store", decoy / "store", dirs_exist_ok=True)

    give_crawl(folder, ROWS)
    assert run("crawl", config).counters["success"] == 15
    copy()
    quality = run("quality", config)
    assert (quality.counters["rows"], quality.counters["accepted"]) == (15, 14)
    give_captions(config)
    copy()
    run("rewrite", config)
    copy()
    assert run("assemble", config).counters["samples"] == 14
    copy()

    rewrite = stage("rewrite", config)
    store, version = rewrite.store, register(rewrite.store, config.dataset, rewrite.version.interval, "", {})
    rows = Rewrite(config, version).read_rows("00000", tmp_path)
    assert (len(rows), len({row.key for row in rows})) == (14, 14)
    manifest = rewrite.manifest()
    assert manifest is not None
    captions = manifest.files_ending(".parquet")
    verdicts = {"00000": recorded(store, stage("quality", config).folder + "/verdicts/00000.parquet")}
    tables = {"00000": recorded(store, stage("crawl", config).folder + "/00000.parquet")}
    files = [recorded(store, name) for name in captions]
    locate_captions(store, f"{config.dataset}/index", files, verdicts, tables, tmp_path)
    index = read_index(store, f"{config.dataset}/index")
    assert index is not None
    assert located_files(index, ["00000"]) == files
    store.remove_folder(f"{config.dataset}/index")
    assert Samples(store, version).page(Filter(), 0, 1).total == 14
    assert list_rows(store, version).total == 1
    assert diff(store, version, version).kept == 14
    assert [found.name for found in list_versions(store, config.dataset)] == [version.name]
    verification = verify_version(store, version)
    (corruption,) = verification.corruptions  # the version was registered after its stages, without a fingerprint
    assert corruption.path == f"{version.folder}/assemble/manifest.json"
    assert verification.files > 8
    inventory = take_inventory(store, config.dataset)
    assert (list(inventory.items), inventory.orphans) == ([version.name], {})
    tree = set(store.tree(config.dataset))
    assert {file.path for file in inventory.items[version.name].files} <= {file.path for file in tree}


def test_a_source_below_such_a_folder_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glob after it is still a glob."""
    folder, decoy = home / "o'br[i]en *é", home / "o'brien xé"
    for parent, number in ((folder, 1), (decoy, 2)):
        parent.mkdir()
        (parent / "a.csv").write_text(f"url,caption\nhttp://a.example/{number},a\n")
    monkeypatch.setenv("VECAP_LISTS", str(folder))
    for pattern in ("${VECAP_LISTS}/*.csv", "${VECAP_LISTS}/a.csv", f"{folder}/[a-c].csv"):
        section = UrlSource(kind="urls", paths=[pattern])
        source = UrlFiles(load_config(DEMO), section, "2026-01-01")
        urls = [link.url for part in source.parts() for link in source.read(part, Stats())]
        assert urls == ["http://a.example/1"]

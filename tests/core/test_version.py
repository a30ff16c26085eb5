"""The same configuration finds the same version; a different one creates a revision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, check_interval, interval_of, list_versions, read_version, register
from vecap_tasks.errors import ConfigError, CorruptError, VecapError


def test_revisions_are_numbered_per_interval(store: Store) -> None:
    names = [register(store, "demo", "2026-01-01", fingerprint, {}).name for fingerprint in ("a", "b", "a", "c")]
    assert names == ["2026-01-01", "2026-01-01-r2", "2026-01-01", "2026-01-01-r3"]
    assert [version.name for version in list_versions(store, "demo")] == [names[0], names[1], names[3]]


def test_concurrent_runs_with_one_configuration_get_one_version(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: register(store, "demo", "2026-01-01", "same", {}).name, range(16)))
    assert found == {"2026-01-01"}


def test_concurrent_runs_with_different_configurations_get_one_version_each(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda n: register(store, "demo", "2026-01-01", str(n), {}).name, range(8)))
    assert found == {"2026-01-01", *(f"2026-01-01-r{n}" for n in range(2, 9))}


@pytest.mark.parametrize(
    ("name", "interval"),
    [
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01-r2", "2026-01-01"),
        ("2026-01-01T06:00:00", "2026-01-01T06:00:00"),
        ("week-7-r12", "week-7"),
    ],
)
def test_a_version_name_contains_its_interval(name: str, interval: str) -> None:
    assert interval_of(name) == interval


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-r2", ".hidden", "a b"])
def test_invalid_version_names_are_rejected(name: str) -> None:
    with pytest.raises(VecapError, match="invalid version name"):
        interval_of(name)


@pytest.mark.parametrize(
    "interval", ["2026-01-01", "2028-02-29", "2026-01-01T05", "2026-01-01T05:30", "2026-01-01T05:00:00"]
)
def test_real_dates_and_times_are_intervals(interval: str) -> None:
    check_interval(interval)


@pytest.mark.parametrize(
    "interval",
    [
        *("2026-1-1", "2026-02-30", "2026-13-01", "0000-01-01", "20260101", "2026-W01", "2026-01", "\u0662026-01-01"),
        *("2026-01-01T24", "2026-01-01T05:60", "2026-01-01 05:00:00", "2026-01-01\n", "latest", "week-7"),
    ],
)
def test_an_interval_that_is_not_a_date_is_rejected(interval: str) -> None:
    with pytest.raises(ConfigError, match="is not a date; name an interval by its first day or hour, such as"):
        check_interval(interval)


def test_an_unknown_version_error_lists_the_existing_ones(store: Store) -> None:
    register(store, "demo", "2026-01-01", "a", {})
    with pytest.raises(VecapError, match="its versions are: 2026-01-01"):
        read_version(store, "demo", "2026-01-02")


def test_a_version_file_in_the_wrong_folder_is_detected(store: Store) -> None:
    register(store, "demo", "2026-01-01", "a", {})
    store.put("demo/2026-01-02/version.json", store.read("demo/2026-01-01/version.json"))
    with pytest.raises(CorruptError, match="belongs to version 2026-01-01"):
        read_version(store, "demo", "2026-01-02")


def test_a_revision_is_named_by_its_number() -> None:
    assert Version("demo", "2026-01-01", 3, "f").name == "2026-01-01-r3"

"""Mixtures: immutable records, sampling by weight, and external tars."""

import io
import json
import tarfile
from collections import Counter

import pytest

from tests.train.factories import Texts, configure, publish_version, run, scene_image
from tests.train.test_training_data import SHUFFLED, STREAMED, open_data, read_batches
from vecap_tasks.cli.__main__ import main
from vecap_tasks.core.manifest import digest
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.errors import ConfigError, CorruptError, VecapError
from vecap_tasks.train.data import mixture_builder
from vecap_tasks.train.data.mixture import Mixture, read_mixture
from vecap_tasks.train.data.mixture_builder import check_mixture, load_mixture

OWN_VERSION = {"kind": "version", "version": "{version}"}


def write_tar(path, samples, kind=tarfile.GNU_FORMAT):
    """Write a tar as other tools do; *samples* are lists of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for members in samples:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.mtime = 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
    return path


def external_sample(key, text, image=None, kind="jpg", **values):
    """Return a sample as img2dataset writes it."""
    body = {"caption": text, "url": "https://b.example/x", "key": key, **values}
    data = scene_image(int(key), "JPEG") if image is None else image
    return [(f"{key}.{kind}", data), (f"{key}.txt", text.encode()), (f"{key}.json", json.dumps(body).encode())]


def external_source(home, **source):
    """Write two external tars of ten samples each; return a source with them."""
    for shard in range(2):
        samples = [external_sample(f"{1000 + 10 * shard + n:09d}", f"their picture {n}") for n in range(10)]
        write_tar(home / "theirs" / f"{shard:05d}.tar", samples)
    return {"kind": "tars", "paths": [f"{home}/theirs/*.tar"], "arm": "alttext", **source}


def with_mixture(home, *sources, name="both", **train):
    return configure(home, mixture=json.dumps({"name": name, "sources": list(sources)}), **train)


@pytest.fixture(params=[SHUFFLED, STREAMED], ids=["shuffled", "streamed"])
def reading(request):
    return request.param


def test_weights_set_the_samples_per_source_and_epoch(home, reading):
    plain = configure(home)
    version = publish_version(plain, [Texts() for _ in range(10)])
    other = publish_version(plain, [Texts(vec="other words") for _ in range(10)], "2026-01-02")
    sources = [
        OWN_VERSION | {"weight": 2},
        {"kind": "version", "version": other.name, "weight": 0.5},
        external_source(home),
    ]
    config = with_mixture(home, *sources, epochs=4, batch_size=5, **reading)
    data = open_data(config, version, "vec")
    assert (data.samples, data.left_out, data.steps_per_epoch, data.steps) == (45, 0, 9, 36)
    batches = read_batches(data)
    for world_size in (5,) if reading is SHUFFLED else (1,):
        assert read_batches(open_data(config, version, "vec"), 0, world_size) == batches
    assert read_batches(open_data(config, version, "vec"), 11) == batches[11:]
    for epoch in range(4):
        epoch_rows = [row for (_, batch_epoch, _), batch in batches if batch_epoch == epoch for row in batch]
        uids = Counter(uid for uid, _, _ in epoch_rows)
        own = {f"{n:032x}": uids[f"{n:032x}"] for n in range(10)}
        assert sum(count for uid, count in uids.items() if uid not in own) == 20, "each external sample once"
        assert sum(own.values()) == 25
        assert set(own.values()) <= {2, 3}, "twice from one version, half of the same uids from the other"
    counts = Counter(uid for _, batch in batches for uid, _, _ in batch)
    assert set(counts.values()) == {4 * 2 + 2, 4}


def test_a_source_has_its_own_arm_and_probability_of_alttext(home):
    version = publish_version(configure(home), [Texts(alttext="old", vecap=f"new {n}") for n in range(12)])
    texts = {"texts__old": "{alttext: 1, vecap: 0}"}
    config = with_mixture(home, OWN_VERSION | {"arm": "old"}, external_source(home), epochs=1, batch_size=32, **texts)
    [(_, rows)] = read_batches(open_data(config, version, "vecap"))
    texts = Counter(text for uid, _, text in rows if int(uid, 16) < 12)
    assert texts.most_common(1)[0][1] == 12, "only AltText"


def test_a_recorded_mixture_is_immutable(home):
    version = publish_version(configure(home), [Texts() for _ in range(10)])
    source = external_source(home)
    config = with_mixture(home, OWN_VERSION, source)
    mixture = load_mixture(config, version.name)
    store = Store(config.resolve(config.root))
    body = json.loads(store.read("demo/mixtures/both.json"))
    assert body["digest"] == mixture.digest == read_mixture(store, "demo", "both").digest
    assert [item["kind"] for item in body["sources"]] == ["version", "tars"]
    assert body["sources"][0] | {"version": version.name, "dataset": "demo", "samples": 10} == body["sources"][0]
    assert body["sources"][0]["root"] == config.root, "as written in the configuration"
    assert body["sources"][1]["tars"][0]["usable"]["alttext"] == 10
    assert load_mixture(with_mixture(home, OWN_VERSION, source), version.name).digest == mixture.digest
    by_name = configure(home, mixture="both")
    assert load_mixture(by_name, version.name) == mixture
    with pytest.raises(VecapError, match="mixture both already exists with other sources or weights") as raised:
        load_mixture(with_mixture(home, OWN_VERSION, source | {"weight": 3}), version.name)
    assert "use another name" in str(raised.value)
    other = load_mixture(with_mixture(home, OWN_VERSION, source | {"weight": 3}, name="more"), version.name)
    assert other.digest != mixture.digest


def test_a_changed_record_is_corrupt(home):
    version = publish_version(configure(home), [Texts() for _ in range(10)])
    config = with_mixture(home, OWN_VERSION, external_source(home))
    load_mixture(config, version.name)
    store = Store(config.resolve(config.root))
    data = store.read("demo/mixtures/both.json")
    for changed in (data.replace(b'"weight": 1.0', b'"weight": 2.0', 1), data[:-30], data.replace(b"both", b"bath")):
        store.put("demo/mixtures/both.json", changed)
        with pytest.raises(CorruptError, match=r"mixtures/both\.json is (corrupt|not a valid mixture)"):
            read_mixture(store, "demo", "both")


def test_the_digest_depends_only_on_the_contents_of_the_batches(home):
    version = publish_version(configure(home), [Texts() for _ in range(10)])
    source = external_source(home)
    base = load_mixture(with_mixture(home, OWN_VERSION, source), version.name)
    (home / "theirs").rename(home / "moved")
    moved = load_mixture(
        with_mixture(home, OWN_VERSION, source | {"paths": [f"{home}/moved/*"]}, name="moved"), version.name
    )
    assert moved.digest == base.digest
    data = bytearray((home / "moved" / "00001.tar").read_bytes())
    data[600] ^= 1
    (home / "moved" / "00001.tar").write_bytes(data)
    changed = load_mixture(
        with_mixture(home, OWN_VERSION, source | {"paths": [f"{home}/moved/*"]}, name="changed"), version.name
    )
    assert changed.digest != base.digest


def test_the_training_manifest_lists_its_sources_and_a_changed_source_is_found(home):
    version = publish_version(configure(home), [Texts() for _ in range(10)])
    config = with_mixture(home, OWN_VERSION, external_source(home), arms="[vecap]")
    manifest = run("train", config, version)
    mixture = load_mixture(config, version.name)
    inputs = {(item.kind, item.name): item.digest for item in manifest.inputs}
    assembled = load_stage("assemble", config, version).manifest()
    assert inputs["mixture", "both"] == mixture.digest
    assert inputs["version", "demo/2026-01-01"] == assembled.digest
    assert inputs["tars", f"{home}/theirs/*.tar"] == mixture.sources[1].digest
    assert manifest.config["mixture"] == mixture.digest
    assert manifest.counters["samples"] == 30
    assert manifest.fingerprint != load_stage("train", configure(home, arms="[vecap]"), version).fingerprint
    assert not verify_version(Store(config.resolve(config.root)), version).corruptions
    assert check_mixture(config, mixture) == []
    tar = home / "theirs" / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    [corruption] = check_mixture(config, mixture)
    assert corruption.path.endswith("theirs/00000.tar")
    assert corruption.problem == "changed after the mixture was recorded"
    with pytest.raises(CorruptError, match=r"00000\.tar is corrupt: .*; restore .*theirs/00000\.tar, or record a mix"):
        load_stage("train", configure(home, mixture="both", epochs=3), version).plan()
    tar.unlink()
    with pytest.raises(CorruptError, match=r"00000\.tar is missing or changed"):
        open_data(configure(home, mixture="both"), version, "vecap")


def test_unusable_samples_of_external_tars_are_skipped_and_counted(home, reading):
    """Other image formats, missing, malformed and extra members; a truncated image is replaced."""
    samples = [external_sample(f"{n:09d}", f"picture {n}") for n in range(20)]
    samples.append(external_sample("000000020", "a png", scene_image(20, "PNG"), "png"))
    samples.append(external_sample("000000021", "a webp", scene_image(21, "WEBP"), "webp"))
    samples.append(external_sample("000000022", "a jpeg", kind="jpeg"))
    samples.append([*external_sample("000000023", "extra"), ("000000023.cls", b"7"), ("000000023.seg.npy", b"1234")])
    cut = external_sample("000000024", "cut in half", scene_image(24)[:400])
    samples.append(cut)
    samples.append(external_sample("000000025", ""))
    samples.append([("000000026.txt", b"no image")])
    samples.append(external_sample("000000027", "no image at all", b"<html>not found</html>"))
    samples.append([("000000028.jpg", scene_image(28)), ("000000028.txt", b"\xff\xfe not utf-8")])
    samples.append([("000000029.jpg", scene_image(29)), ("000000029.txt", b"text"), ("000000029.json", b"{half")])
    samples.append([("000000030.jpg", scene_image(30)), ("000000030.txt", b"named by its place")])
    samples.append(external_sample("000000031", "named", uid="their-own-uid"))
    write_tar(home / "theirs" / "odd.tar", samples, tarfile.PAX_FORMAT)
    version = publish_version(configure(home), [Texts() for _ in range(4)])
    source = {"kind": "tars", "paths": [f"{home}/theirs/odd.tar"], "arm": "alttext"}
    config = with_mixture(home, OWN_VERSION, source, epochs=1, batch_size=31, **reading)
    mixture = load_mixture(config, version.name)
    [tar] = mixture.sources[1].tars
    assert tar.samples == 32
    assert dict(tar.skipped) == {"bad_json": 1, "no_image": 1, "not_an_image": 1, "not_utf8": 1}
    assert tar.usable["alttext"] == 27
    assert tar.usable["vec"] == 0
    data = open_data(config, version, "vecap")
    assert (data.samples, data.left_out) == (31, 1)
    [(_, rows)] = read_batches(data)
    uids = Counter(uid for uid, _, _ in rows)
    assert uids["their-own-uid"] in (1, 2)
    assert len(uids) == 30
    assert sum(uids.values()) == 31, "another sample replaces the truncated image"
    assert read_batches(open_data(config, version, "vecap")) == [((0, 0, 0), rows)]


def test_samples_with_private_data_in_a_text_are_skipped_and_counted(home, capsys, reading):
    private = ["call 212-555-0142", "jane&#64;example.com", "https://a.example/call/+49-171-1234567"]
    samples = [external_sample(f"{n:09d}", f"picture {n}") for n in range(8)]
    samples += [external_sample(f"{n:09d}", text) for n, text in enumerate(private, start=8)]
    samples.append(external_sample("000000011", "a short text", several=["one", "write to jane@example.com"]))
    samples.append(external_sample("000000012", "a field that is not read", other="jane@example.com"))
    write_tar(home / "theirs" / "a.tar", samples)
    version = publish_version(configure(home), [Texts() for _ in range(4)])
    texts = {"alttext": "txt", "vec": "json.several"}
    source = {"kind": "tars", "paths": [f"{home}/theirs/*.tar"], "texts": texts, "arm": "alttext"}
    config = with_mixture(home, OWN_VERSION, source, epochs=1, batch_size=13, **reading)
    mixture = load_mixture(config, version.name)
    [tar] = mixture.sources[1].tars
    assert (tar.samples, dict(tar.skipped), tar.usable["alttext"]) == (13, {"private_data": 4}, 9)
    [(_, rows)] = read_batches(open_data(config, version, "vecap"))
    assert len(rows) == 13, "four of the version, nine of the tar"
    file = home / "config.yaml"
    file.write_text(config.model_dump_json().replace('"../', f'"{config.base.parent}/'))
    assert main(["mixture", "show", "--config", str(file), "both"]) == 0
    assert f"skipped in {home}/theirs/*.tar: 4 private_data\n" in capsys.readouterr().out


@pytest.mark.parametrize("rules", [None, "0123456789abcdef"])
def test_a_record_made_without_the_current_rules_for_private_data_is_not_trained_on(home, monkeypatch, rules):
    version = publish_version(configure(home), [Texts() for _ in range(4)])
    sources = OWN_VERSION, external_source(home)
    config = with_mixture(home, *sources)
    with monkeypatch.context() as patched:
        patched.setattr(mixture_builder, "rules_digest", lambda: rules)
        recorded = load_mixture(config, version.name)
    assert load_mixture(config, version.name) == recorded, "still readable, with its digest"
    assert check_mixture(config, recorded) == []
    with pytest.raises(VecapError, match=r"00000\.tar were recorded without .*; record the mixture under another name"):
        open_data(config, version, "vecap")
    again = with_mixture(home, *sources, name="again")
    assert load_mixture(again, version.name).digest != recorded.digest
    assert open_data(again, version, "vecap").samples == 24


def test_records_of_earlier_releases_keep_their_digest(home):
    version = publish_version(configure(home), [Texts() for _ in range(4)])
    mixture = load_mixture(with_mixture(home, OWN_VERSION, external_source(home)), version.name)
    body = json.loads(mixture.to_json())
    for tar in body["sources"][1]["tars"]:
        del tar["rules"]
    del body["seal"]
    old = Mixture.from_json(json.dumps(body | {"seal": digest(body)}).encode(), "old")
    files = [[tar.path.rpartition("/")[2], tar.bytes, tar.check] for tar in old.sources[1].tars]
    assert old.sources[1].digest == digest(files)


def test_texts_are_read_from_the_configured_fields(home):
    new = {"recaption": {"short": "new words"}, "several": ["one", "", "two"]}
    samples = [external_sample(f"{n:09d}", "old", **new) for n in range(6)]
    write_tar(home / "theirs" / "a.tar", samples)
    version = publish_version(configure(home), [Texts() for _ in range(4)])
    texts = {"alttext": "txt", "vecap": "json.recaption.short", "vec": "json.several"}
    source = {"kind": "tars", "paths": [f"{home}/theirs/*.tar"], "texts": texts}
    config = with_mixture(home, OWN_VERSION, source, epochs=6, batch_size=10)
    [tar] = load_mixture(config, version.name).sources[1].tars
    assert len(tar.usable) == 15, "every set of texts"
    assert {count for texts, count in tar.usable.items() if texts != "alttext_rewritten"} == {6}
    assert tar.usable["alttext_rewritten"] == 0
    rows = [row for _, batch in read_batches(open_data(config, version, "vec")) for row in batch]
    assert len({text for uid, _, text in rows if int(uid, 16) > 1000}) == 2
    missing = with_mixture(home, OWN_VERSION, source | {"arm": "alttext_rewritten"}, name="lacking")
    with pytest.raises(VecapError, match=r"none of the 6 samples of .*tar has alttext_rewritten; set"):
        open_data(missing, version, "vec")


def test_tars_are_read_from_s3(home, s3_bucket, tmp_path, reading):
    version = publish_version(configure(home), [Texts() for _ in range(6)])
    store = Store(f"s3://{s3_bucket}")
    for shard in range(2):
        samples = [external_sample(f"{1000 + 10 * shard + n:09d}", f"their picture {n}") for n in range(10)]
        store.upload(f"dfn/{shard:05d}.tar", write_tar(tmp_path / "shard.tar", samples))
    local_source = external_source(home)
    s3_source = local_source | {"paths": [f"s3://{s3_bucket}/dfn/*.tar"]}
    config = with_mixture(home, OWN_VERSION, s3_source, name="s3", epochs=2, **reading)
    mixture = load_mixture(config, version.name)
    assert all(tar.check.startswith("etag:") for tar in mixture.sources[1].tars)
    local = with_mixture(home, OWN_VERSION, local_source, epochs=2, **reading)
    expected = read_batches(open_data(local, version, "vecap"))
    assert read_batches(open_data(config, version, "vecap")) == expected
    store.upload("dfn/00000.tar", write_tar(tmp_path / "shard.tar", [external_sample("000000001", "another")]))
    assert [corruption.path for corruption in check_mixture(config, mixture)] == [f"s3://{s3_bucket}/dfn/00000.tar"]
    with pytest.raises(CorruptError, match=r"00000\.tar is missing or changed"):
        open_data(configure(home, mixture="s3", **reading), version, "vecap")


def test_an_invalid_mixture_is_one_clear_line(home):
    plain = configure(home)
    version = publish_version(plain, [Texts() for _ in range(6)])
    other = publish_version(plain, [Texts() for _ in range(6)], "2026-01-02")
    with pytest.raises(VecapError, match="does not contain version 2026-01-01; add it to the sources"):
        load_mixture(with_mixture(home, {"kind": "version", "version": other.name}), version.name)
    with pytest.raises(VecapError, match=r"tar .*nowhere/\*\.tar not found; create it"):
        load_mixture(
            with_mixture(home, OWN_VERSION, {"kind": "tars", "paths": [f"{home}/nowhere/*.tar"]}, name="b"),
            version.name,
        )
    with pytest.raises(VecapError, match="dataset demo has no mixture gone; recorded mixtures: both"):
        load_mixture(configure(home, mixture="gone"), version.name)
    with pytest.raises(VecapError, match="has no version 2026-07-01; its versions are: 2026-01-01, 2026-01-02"):
        load_mixture(with_mixture(home, {"kind": "version", "version": "2026-07-01"}, name="c"), version.name)
    with pytest.raises(ConfigError, match=r"train.mixture: daily-\{version\} needs a version; give --version"):
        load_mixture(with_mixture(home, OWN_VERSION, name="daily-{version}"), None)
    with pytest.raises(ConfigError, match=r"caption is not a valid text field; use txt or a key of the \.json"):
        with_mixture(home, {"kind": "tars", "paths": ["a.tar"], "texts": {"vec": "caption"}})


def test_mixture_commands(home, capsys):
    version = publish_version(configure(home), [Texts() for _ in range(10)])
    source = external_source(home)
    recipe = home / "recipe.yaml"
    own = f"{{kind: version, version: {version.name}, weight: 0.5}}"  # an unquoted date
    recipe.write_text(f"name: day-{{version}}\nsources:\n  - {own}\n  - {json.dumps(source)}\n")
    config = configure(home)
    file = home / "config.yaml"
    file.write_text(config.model_dump_json().replace('"../', f'"{config.base.parent}/'))
    options = ["--config", str(file)]
    assert main(["mixture", "list", *options]) == 0
    assert "has no mixture" in capsys.readouterr().out
    assert main(["mixture", "create", *options, "--recipe", str(recipe), "--version", version.name]) == 0
    output = capsys.readouterr().out
    assert "day-2026-01-01" in output
    [line] = [line for line in output.splitlines() if line.startswith("version")]
    assert line.split()[:7] == ["version", "demo/2026-01-01", "10", "0.5", "5", "from", "run"]
    assert main(["mixture", "show", *options, "--json", "day-2026-01-01"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert Mixture.from_json(Store(config.resolve(config.root)).read("demo/mixtures/day-2026-01-01.json"), "x")
    assert shown["sources"][1]["samples"] == 20
    assert main(["mixture", "list", *options]) == 0
    assert shown["digest"][:12] in capsys.readouterr().out
    assert main(["mixture", "verify", *options, "day-2026-01-01"]) == 0
    assert "OK: 2 sources verified" in capsys.readouterr().out
    (home / "theirs" / "00001.tar").write_bytes(b"")
    assert main(["mixture", "verify", *options, "day-2026-01-01"]) == 1
    assert "00001.tar: changed after" in capsys.readouterr().out

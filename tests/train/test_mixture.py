"""Mixtures: recorded once, sampled by weight, and what other people's tars may hold."""

import io
import json
import tarfile
from collections import Counter

import pytest

from tests.train.factories import Texts, configure, give_version, picture, run
from tests.train.test_training_data import SHUFFLED, STREAMED, opened, taken
from vecap_tasks.cli.__main__ import main
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.errors import ConfigError, CorruptError, VecapError
from vecap_tasks.train.data.mixture import Mixture, read_mixture
from vecap_tasks.train.data.mixture_builder import check_mixture, load_mixture

OURS = {"kind": "version", "version": "{version}"}


def tar_of(path, samples, kind=tarfile.GNU_FORMAT):
    """Write a tar as other tools do: *samples* are lists of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for members in samples:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.mtime = 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
    return path


def foreign(key, text, image=None, kind="jpg", **values):
    """A sample as img2dataset writes it."""
    body = {"caption": text, "url": "https://b.example/x", "key": key, **values}
    picked = picture(int(key), "JPEG") if image is None else image
    return [(f"{key}.{kind}", picked), (f"{key}.txt", text.encode()), (f"{key}.json", json.dumps(body).encode())]


def theirs(home, **source):
    """Two tars of ten samples each, and a source of them."""
    for shard in range(2):
        samples = [foreign(f"{1000 + 10 * shard + n:09d}", f"their picture {n}") for n in range(10)]
        tar_of(home / "theirs" / f"{shard:05d}.tar", samples)
    return {"kind": "tars", "paths": [f"{home}/theirs/*.tar"], "arm": "alttext", **source}


def mixed(home, *sources, name="both", **train):
    return configure(home, mixture=json.dumps({"name": name, "sources": list(sources)}), **train)


@pytest.fixture(params=[SHUFFLED, STREAMED], ids=["shuffled", "streamed"])
def way(request):
    return request.param


def test_weights_say_how_many_samples_of_each_source_an_epoch_has(home, way):
    plain = configure(home)
    version = give_version(plain, [Texts() for _ in range(10)])
    other = give_version(plain, [Texts(vec="other words") for _ in range(10)], "2026-01-02")
    sources = [OURS | {"weight": 2}, {"kind": "version", "version": other.name, "weight": 0.5}, theirs(home)]
    config = mixed(home, *sources, epochs=4, batch_size=5, **way)
    data = opened(config, version, "vec")
    assert (data.samples, data.left_out, data.steps_per_epoch, data.steps) == (45, 0, 9, 36)
    batches = taken(data)
    for world in (5,) if way is SHUFFLED else (1,):
        assert taken(opened(config, version, "vec"), 0, world) == batches
    assert taken(opened(config, version, "vec"), 11) == batches[11:]
    for epoch in range(4):
        of_epoch = [row for (_, at, _), batch in batches if at == epoch for row in batch]
        uids = Counter(uid for uid, _, _ in of_epoch)
        ours = {f"{n:032x}": uids[f"{n:032x}"] for n in range(10)}
        assert sum(count for uid, count in uids.items() if uid not in ours) == 20, "theirs, each once"
        assert sum(ours.values()) == 25
        assert set(ours.values()) <= {2, 3}, "twice from ours, half of them from the other version, by the same uids"
    shown = Counter(uid for _, batch in batches for uid, _, _ in batch)
    assert set(shown.values()) == {4 * 2 + 2, 4}


def test_a_source_has_its_own_arm_and_share_of_alttext(home):
    version = give_version(configure(home), [Texts(alttext="old", vecap=f"new {n}") for n in range(12)])
    config = mixed(home, OURS | {"arm": "mixed", "mixed_p": 1.0}, theirs(home), epochs=1, batch_size=32)
    [(_, rows)] = taken(opened(config, version, "vecap"))
    texts = Counter(text for uid, _, text in rows if int(uid, 16) < 12)
    assert texts.most_common(1)[0][1] == 12, "the AltText alone"


def test_a_mixture_is_recorded_once_and_never_changed(home):
    version = give_version(configure(home), [Texts() for _ in range(10)])
    source = theirs(home)
    config = mixed(home, OURS, source)
    mixture = load_mixture(config, version.name)
    store = Store(config.resolve(config.root))
    body = json.loads(store.read("demo/mixtures/both.json"))
    assert body["digest"] == mixture.digest == read_mixture(store, "demo", "both").digest
    assert [one["kind"] for one in body["sources"]] == ["version", "tars"]
    assert body["sources"][0] | {"version": version.name, "dataset": "demo", "samples": 10} == body["sources"][0]
    assert body["sources"][0]["root"] == config.root, "as it is written, no path of this machine"
    assert body["sources"][1]["tars"][0]["usable"]["alttext"] == 10
    assert load_mixture(mixed(home, OURS, source), version.name).digest == mixture.digest
    by_name = configure(home, mixture="both")
    assert load_mixture(by_name, version.name) == mixture
    with pytest.raises(VecapError, match="there is a mixture both already, of other sources or weights") as refused:
        load_mixture(mixed(home, OURS, source | {"weight": 3}), version.name)
    assert "give this one another name" in str(refused.value)
    other = load_mixture(mixed(home, OURS, source | {"weight": 3}, name="more"), version.name)
    assert other.digest != mixture.digest


def test_a_changed_record_is_damage(home):
    version = give_version(configure(home), [Texts() for _ in range(10)])
    config = mixed(home, OURS, theirs(home))
    load_mixture(config, version.name)
    store = Store(config.resolve(config.root))
    data = store.read("demo/mixtures/both.json")
    for changed in (data.replace(b'"weight": 1.0', b'"weight": 2.0', 1), data[:-30], data.replace(b"both", b"bath")):
        store.put("demo/mixtures/both.json", changed)
        with pytest.raises(CorruptError, match=r"mixtures/both\.json (was changed|is no mixture)"):
            read_mixture(store, "demo", "both")


def test_the_digest_follows_what_is_in_the_batches_alone(home):
    version = give_version(configure(home), [Texts() for _ in range(10)])
    source = theirs(home)
    base = load_mixture(mixed(home, OURS, source), version.name)
    (home / "theirs").rename(home / "moved")
    moved = load_mixture(mixed(home, OURS, source | {"paths": [f"{home}/moved/*"]}, name="moved"), version.name)
    assert moved.digest == base.digest
    data = bytearray((home / "moved" / "00001.tar").read_bytes())
    data[600] ^= 1
    (home / "moved" / "00001.tar").write_bytes(data)
    changed = load_mixture(mixed(home, OURS, source | {"paths": [f"{home}/moved/*"]}, name="changed"), version.name)
    assert changed.digest != base.digest


def test_the_training_names_its_sources_and_a_change_of_one_is_found(home):
    version = give_version(configure(home), [Texts() for _ in range(10)])
    config = mixed(home, OURS, theirs(home), arms="[vecap]")
    manifest = run("train", config, version)
    mixture = load_mixture(config, version.name)
    given = {(item.kind, item.name): item.digest for item in manifest.inputs}
    assembled = load_stage("assemble", config, version).manifest()
    assert given["mixture", "both"] == mixture.digest
    assert given["version", "demo/2026-01-01"] == assembled.digest
    assert given["tars", f"{home}/theirs/*.tar"] == mixture.sources[1].digest
    assert manifest.config["mixture"] == mixture.digest
    assert manifest.counters["samples"] == 30
    assert manifest.fingerprint != load_stage("train", configure(home, arms="[vecap]"), version).fingerprint
    assert not verify_version(Store(config.resolve(config.root)), version).corruptions
    assert check_mixture(config, mixture) == []
    tar = home / "theirs" / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    [damage] = check_mixture(config, mixture)
    assert damage.path.endswith("theirs/00000.tar")
    assert damage.problem == "was changed since the mixture was recorded"
    with pytest.raises(CorruptError, match=r"00000\.tar is corrupt: .*; restore .*theirs/00000\.tar, or record a mix"):
        load_stage("train", configure(home, mixture="both", epochs=3), version).plan()
    tar.unlink()
    with pytest.raises(CorruptError, match=r"00000\.tar is missing or was changed"):
        opened(configure(home, mixture="both"), version, "vecap")


def test_what_other_people_s_tars_hold_is_met_and_counted(home, way):
    """Other formats, missing and broken members, extra ones; a cut image is replaced in every way of reading alike."""
    samples = [foreign(f"{n:09d}", f"picture {n}") for n in range(20)]
    samples.append(foreign("000000020", "a png", picture(20, "PNG"), "png"))
    samples.append(foreign("000000021", "a webp", picture(21, "WEBP"), "webp"))
    samples.append(foreign("000000022", "a jpeg", kind="jpeg"))
    samples.append([*foreign("000000023", "extra"), ("000000023.cls", b"7"), ("000000023.seg.npy", b"1234")])
    cut = foreign("000000024", "cut in half", picture(24)[:400])
    samples.append(cut)
    samples.append(foreign("000000025", ""))
    samples.append([("000000026.txt", b"no image")])
    samples.append(foreign("000000027", "no image at all", b"<html>not found</html>"))
    samples.append([("000000028.jpg", picture(28)), ("000000028.txt", b"\xff\xfe not utf-8")])
    samples.append([("000000029.jpg", picture(29)), ("000000029.txt", b"text"), ("000000029.json", b"{half")])
    samples.append([("000000030.jpg", picture(30)), ("000000030.txt", b"named by its place")])
    samples.append(foreign("000000031", "named", uid="their-own-uid"))
    tar_of(home / "theirs" / "odd.tar", samples, tarfile.PAX_FORMAT)
    version = give_version(configure(home), [Texts() for _ in range(4)])
    source = {"kind": "tars", "paths": [f"{home}/theirs/odd.tar"], "arm": "alttext"}
    config = mixed(home, OURS, source, epochs=1, batch_size=31, **way)
    mixture = load_mixture(config, version.name)
    [tar] = mixture.sources[1].tars
    assert tar.samples == 32
    assert dict(tar.skipped) == {"bad_json": 1, "no_image": 1, "not_an_image": 1, "not_utf8": 1}
    assert tar.usable["alttext"] == 27
    assert tar.usable["vec"] == 0
    data = opened(config, version, "vecap")
    assert (data.samples, data.left_out) == (31, 1)
    [(_, rows)] = taken(data)
    uids = Counter(uid for uid, _, _ in rows)
    assert uids["their-own-uid"] in (1, 2)
    assert len(uids) == 30
    assert sum(uids.values()) == 31, "another stands in for the cut one"
    assert taken(opened(config, version, "vecap")) == [((0, 0, 0), rows)]


def test_texts_stand_where_the_recipe_says(home):
    new = {"recaption": {"short": "new words"}, "several": ["one", "", "two"]}
    samples = [foreign(f"{n:09d}", "old", **new) for n in range(6)]
    tar_of(home / "theirs" / "a.tar", samples)
    version = give_version(configure(home), [Texts() for _ in range(4)])
    texts = {"alttext": "txt", "vecap": "json.recaption.short", "vec": "json.several"}
    source = {"kind": "tars", "paths": [f"{home}/theirs/*.tar"], "texts": texts}
    config = mixed(home, OURS, source, epochs=6, batch_size=10)
    [tar] = load_mixture(config, version.name).sources[1].tars
    assert dict(tar.usable) == {"alttext": 6, "vec": 6, "vecap": 6, "mixed": 6, "alttext_rewritten": 0}
    rows = [row for _, batch in taken(opened(config, version, "vec")) for row in batch]
    assert len({text for uid, _, text in rows if int(uid, 16) > 1000}) == 2
    lacking = mixed(home, OURS, source | {"arm": "alttext_rewritten"}, name="lacking")
    with pytest.raises(VecapError, match=r"none of the 6 samples of .*tar has a text for the arm alttext_rewritten"):
        opened(lacking, version, "vec")


def test_tars_are_read_from_s3(home, s3_bucket, tmp_path, way):
    version = give_version(configure(home), [Texts() for _ in range(6)])
    store = Store(f"s3://{s3_bucket}")
    for shard in range(2):
        samples = [foreign(f"{1000 + 10 * shard + n:09d}", f"their picture {n}") for n in range(10)]
        store.upload(f"dfn/{shard:05d}.tar", tar_of(tmp_path / "made.tar", samples))
    here = theirs(home)
    there = here | {"paths": [f"s3://{s3_bucket}/dfn/*.tar"]}
    config = mixed(home, OURS, there, name="s3", epochs=2, **way)
    mixture = load_mixture(config, version.name)
    assert all(tar.check.startswith("etag:") for tar in mixture.sources[1].tars)
    local = taken(opened(mixed(home, OURS, here, epochs=2, **way), version, "vecap"))
    assert taken(opened(config, version, "vecap")) == local
    store.upload("dfn/00000.tar", tar_of(tmp_path / "made.tar", [foreign("000000001", "another")]))
    assert [damage.path for damage in check_mixture(config, mixture)] == [f"s3://{s3_bucket}/dfn/00000.tar"]
    with pytest.raises(CorruptError, match=r"00000\.tar is missing or was changed"):
        opened(configure(home, mixture="s3", **way), version, "vecap")


def test_wrong_recipes_are_one_clear_line(home):
    plain = configure(home)
    version = give_version(plain, [Texts() for _ in range(6)])
    other = give_version(plain, [Texts() for _ in range(6)], "2026-01-02")
    with pytest.raises(VecapError, match="does not hold version 2026-01-01, beside which its models would lie"):
        load_mixture(mixed(home, {"kind": "version", "version": other.name}), version.name)
    with pytest.raises(VecapError, match=r"there is no tar .*nowhere/\*\.tar; put it there"):
        load_mixture(mixed(home, OURS, {"kind": "tars", "paths": [f"{home}/nowhere/*.tar"]}, name="b"), version.name)
    with pytest.raises(VecapError, match="dataset demo has no mixture gone; there are: both"):
        load_mixture(configure(home, mixture="gone"), version.name)
    with pytest.raises(VecapError, match="has no version 2026-07-01; there are: 2026-01-01, 2026-01-02"):
        load_mixture(mixed(home, {"kind": "version", "version": "2026-07-01"}, name="c"), version.name)
    with pytest.raises(ConfigError, match=r"train.mixture: daily-\{version\} stands for a version"):
        load_mixture(mixed(home, OURS, name="daily-{version}"), None)
    with pytest.raises(ConfigError, match=r"a text stands in txt or in a key of the \.json, such as json\.caption"):
        mixed(home, {"kind": "tars", "paths": ["a.tar"], "texts": {"vec": "caption"}})


def test_mixtures_from_the_command_line(home, capsys):
    version = give_version(configure(home), [Texts() for _ in range(10)])
    source = theirs(home)
    recipe = home / "recipe.yaml"
    ours = f"{{kind: version, version: {version.name}, weight: 0.5}}"  # the date without quotes, as one writes it
    recipe.write_text(f"name: day-{{version}}\nsources:\n  - {ours}\n  - {json.dumps(source)}\n")
    config = configure(home)
    file = home / "config.yaml"
    file.write_text(config.model_dump_json().replace('"../', f'"{config.base.parent}/'))
    options = ["--config", str(file)]
    assert main(["mixture", "list", *options]) == 0
    assert "has no mixture" in capsys.readouterr().out
    assert main(["mixture", "create", *options, "--recipe", str(recipe), "--version", version.name]) == 0
    said = capsys.readouterr().out
    assert "day-2026-01-01" in said
    [line] = [line for line in said.splitlines() if line.startswith("version")]
    assert line.split()[:9] == ["version", "demo/2026-01-01", "10", "0.5", "5", "from", "run,", "p", "0.5"]
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
    assert "00001.tar: was changed since" in capsys.readouterr().out

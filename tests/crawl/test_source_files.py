"""The files of a source, by name or glob, local and on S3."""

import hashlib
import io

import pytest

from tests.crawl.conftest import crawl
from tests.crawl.test_warc import gzip_records, record
from tests.crawl.web import image
from vecap_tasks import outages
from vecap_tasks.core.files import DigestReader, find_files
from vecap_tasks.errors import OutageError, VecapError

NAMES = ["2026-01-01/b.csv", "2026-01-01/a.csv", "2026-01-01/a.txt", "2026-01-01/deep/er/c.csv", "2026-01-02/a.csv"]


def find(config, *patterns):
    return find_files(config, patterns, kind="CSV", setting="crawl.source.paths", interval="2026-01-01")


@pytest.fixture(params=["path", "file://", "s3"])
def folder(request, tmp_path):
    """The same files in a folder of each storage, as in a configuration."""
    if request.param == "s3":
        import boto3

        bucket = request.getfixturevalue("s3_bucket")
        for name in NAMES:
            boto3.client("s3").put_object(Bucket=bucket, Key=f"in/{name}", Body=name.encode())
        return f"s3://{bucket}/in"
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return f"file://{tmp_path}" if request.param == "file://" else str(tmp_path)


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["{interval}/*.csv"], [1, 0]),
        (["{interval}/**/*.csv"], [1, 0, 3]),
        (["*/a.csv"], [1, 4]),
        (["{interval}/[ab].csv", "{interval}/a.*"], [1, 0, 2]),
        (["2026-01-02/a.csv", "*/?.csv"], [4, 1, 0]),
        (["{interval}/b.csv", "{interval}/b.csv"], [0]),
    ],
)
def test_globs_match_the_same_files_on_every_storage(folder, demo_config, patterns, found):
    files = find(demo_config, *(f"{folder}/{pattern}" for pattern in patterns))
    assert list(files) == [f"{folder}/{NAMES[number]}" for number in found]
    for name, file in files.items():
        content = name.removeprefix(f"{folder}/").encode()
        with file.open() as stream:
            stream.seek(3)
            assert (file.name, file.size, stream.read()) == (name, len(content), content[3:])


@pytest.mark.parametrize("pattern", ["{interval}/none.csv", "{interval}/*.tsv", "none/*.csv", "{interval}"])
def test_a_pattern_without_matches_is_an_error(folder, demo_config, pattern):
    with pytest.raises(VecapError, match=r"CSV file .* not found.*; .*change crawl\.source\.paths") as error:
        find(demo_config, f"{folder}/{pattern}")
    assert "\n" not in str(error.value)


def test_a_file_with_two_names_is_read_once(demo_config, tmp_path):
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    assert list(find(demo_config, f"{tmp_path}/*.csv")) == [f"{tmp_path}/a.csv"]


def test_an_unreachable_server_is_a_one_line_error(demo_config, monkeypatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    outages.set_timeout(0)
    with pytest.raises(OutageError, match=r"cannot read s3://bucket/a\.csv: .*AWS variables") as error:
        find(demo_config, "s3://bucket/a.csv")
    assert "\n" not in str(error.value)


def test_digesting_hashes_all_bytes_read():
    data = bytes(range(256)) * 1000
    digesting = DigestReader(io.BytesIO(data))
    assert io.BufferedReader(digesting, 512).read(700) == data[:700]
    item = digesting.input("x")
    assert (item.digest, item.bytes) == (hashlib.sha256(data).hexdigest(), len(data))


def test_archives_on_s3_provide_pages_and_images(configure, s3_bucket):
    import boto3

    jpeg = image("JPEG", (40, 30))
    page = record(body=b"<img src=a.jpg alt='a dog'>")
    stored = record(body=jpeg, url="http://site.example/a.jpg", content=b"image/jpeg")
    boto3.client("s3").put_object(Bucket=s3_bucket, Key="2026-01-01/a.warc.gz", Body=gzip_records(page, stored))
    _, manifest = crawl(configure({"kind": "warc", "paths": [f"s3://{s3_bucket}/{{interval}}/*.warc.gz"]}))
    assert manifest.counters["stored"] == manifest.counters["success"] == 1
    (source,) = manifest.inputs
    assert (source.kind, source.name) == ("source", f"s3://{s3_bucket}/2026-01-01/a.warc.gz")

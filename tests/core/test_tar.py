"""Members are located in every tar format that WebDataset users have."""

import hashlib
import io
import tarfile

import pytest

from vecap_tasks.core.files import BlockStream, DigestReader
from vecap_tasks.core.tar import read_groups, read_members
from vecap_tasks.errors import CorruptError

NAMES = ["a/000.jpg", "a/000.json", "./b.x/001.JPG", "001.seg.png", "no_ending", "ü.txt", f"{'long/' * 30}name.jpg"]


def _tar(names, kind, **extra):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=kind) as tar:
        folder = tarfile.TarInfo("a.folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 700 * number
            info.pax_headers = extra
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    return data.getvalue()


@pytest.mark.parametrize("names", [NAMES[:-1], NAMES])
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_match_those_that_tarfile_finds(names, kind):
    data = _tar(names, kind)
    found = list(read_members(io.BytesIO(data), "a.tar"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = {entry.name: (entry.offset_data, entry.size) for entry in tar if entry.isreg()}
    assert [(f"{member.key}.{member.kind}".lower(), (member.offset, member.size)) for member in found] == [
        (name.lower(), position) for name, position in expected.items() if name != "no_ending"
    ]
    assert [(member.key, member.kind) for member in found][2:4] == [("./b.x/001", "jpg"), ("001", "seg.png")]


def test_an_extended_header_in_the_middle_is_read():
    """tarfile continues from there: no member is repeated or lost."""
    data = _tar(["0.jpg", "1.jpg", f"{'x' * 120}.jpg", "3.jpg"], tarfile.GNU_FORMAT)
    assert [member.key for member in read_members(io.BytesIO(data), "a.tar")] == ["0", "1", "x" * 120, "3"]


def test_the_caller_may_read_between_two_members():
    stream = io.BytesIO(_tar(["0.jpg", "1.jpg", "2.jpg"], tarfile.PAX_FORMAT, comment="x"))
    read = []
    for member in read_members(stream, "a.tar"):
        stream.seek(member.offset)
        read.append(stream.read(member.size))
    assert read == [b"", b"\1" * 700, b"\2" * 1400]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_truncated_tar_is_named(kind):
    data = _tar(["0.jpg", "1.jpg", "2.jpg"], kind, comment="x")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.getmembers()
        end = tar.offset
    for cut in range(0, end + 512, 100):
        with pytest.raises(CorruptError, match=r"a\.tar is (truncated|(truncated or )?corrupt) (after|at) byte"):
            list(read_members(io.BytesIO(data[:cut]), "a.tar"))
    assert len(list(read_members(io.BytesIO(data[: end + 512]), "a.tar"))) == 3


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_corrupt_header_is_named(kind):
    data = bytearray(_tar(["0.jpg", "1.jpg"], kind, comment="x"))
    at = data.index(b"1.jpg") if kind == tarfile.USTAR_FORMAT else data.index(b"././@PaxHeader", 600)
    data[at + 3] ^= 1
    with pytest.raises(CorruptError, match=rf"a\.tar is corrupt at byte {at}"):
        list(read_members(io.BytesIO(bytes(data)), "a.tar"))


def test_an_empty_tar_has_no_members():
    assert list(read_members(io.BytesIO(bytes(1024)), "a.tar", strict=True)) == []


def test_a_strict_reader_requires_two_blocks_of_zeros_at_the_end():
    data = _tar(["0.jpg", "1.jpg"], tarfile.USTAR_FORMAT)
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for complete in (data, data[: end + 1024]):
        assert len(list(read_members(io.BytesIO(complete), "a.tar", strict=True))) == 2
    for broken, problem in [
        (data[: end + 512], f"truncated after byte {end}"),
        (data[: end + 1024] + b"more", f"corrupt at byte {end}"),
    ]:
        assert len(list(read_members(io.BytesIO(broken), "a.tar"))) == 2
        with pytest.raises(CorruptError, match=rf"a\.tar is {problem}"):
            list(read_members(io.BytesIO(broken), "a.tar", strict=True))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_read_sequentially_and_hashed_once(kind):
    data = _tar([f"{number % 7}.jpg" for number in range(60)], kind, comment="x")
    reader = DigestReader(io.BytesIO(data))
    stream = BlockStream(reader, block=512)
    read = [
        (key, [(member.kind, member.read(stream)) for member in members])
        for key, members in read_groups(stream, "a.tar", strict=True)
    ]
    assert read == [(str(n % 7), [("jpg", bytes([n]) * 700 * n)]) for n in range(60)]
    item = reader.input("a.tar")
    assert (item.digest, item.bytes) == (hashlib.sha256(data).hexdigest(), len(data))

"""Members are located in every tar format that WebDataset users have."""

import hashlib
import io
import tarfile
import time

import pytest

from vecap_tasks.core.files import BlockStream, DigestReader
from vecap_tasks.core.tar import TarWriter, read_groups, read_images, read_members
from vecap_tasks.errors import CorruptError, PermanentError

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
    assert len(list(read_members(io.BytesIO(data[: end + 1024]), "a.tar"))) == 3


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_corrupt_header_is_named(kind):
    data = bytearray(_tar(["0.jpg", "1.jpg"], kind, comment="x"))
    at = data.index(b"1.jpg") if kind == tarfile.USTAR_FORMAT else data.index(b"././@PaxHeader", 600)
    data[at + 3] ^= 1
    with pytest.raises(CorruptError, match=rf"a\.tar is corrupt at byte {at}"):
        list(read_members(io.BytesIO(bytes(data)), "a.tar"))


def test_an_empty_tar_has_no_members():
    assert list(read_members(io.BytesIO(bytes(1024)), "a.tar")) == []


def test_a_tar_ends_with_two_blocks_of_zeros():
    data = _tar(["0.jpg", "1.jpg"], tarfile.USTAR_FORMAT)
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for complete in (data, data[: end + 1024]):
        assert len(list(read_members(io.BytesIO(complete), "a.tar"))) == 2
    for broken, problem in [
        (data[: end + 512], f"truncated after byte {end}"),
        (data[: end + 1024] + b"more", f"corrupt at byte {end}"),
    ]:
        with pytest.raises(CorruptError, match=rf"a\.tar is {problem}"):
            list(read_members(io.BytesIO(broken), "a.tar"))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_read_sequentially_and_hashed_once(kind):
    data = _tar([f"{number}.jpg" for number in range(60)], kind, comment="x")
    reader = DigestReader(io.BytesIO(data))
    stream = BlockStream(reader, block=512)
    read = [
        (key, [(member.kind, member.read(stream)) for member in members])
        for key, members in read_groups(stream, "a.tar")
    ]
    assert read == [(str(n), [("jpg", bytes([n]) * 700 * n)]) for n in range(60)]
    item = reader.input("a.tar")
    assert (item.digest, item.bytes) == (hashlib.sha256(data).hexdigest(), len(data))


def _header(name, size=b"00000000000\0", kind=b"0"):
    info = tarfile.TarInfo(name)
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "size", [b"-0000001000\0", b"\xff" * 10 + b"\xfe\0", b"\xff" * 12, b"00000_01000\0", b"0000000008 \0"]
)
@pytest.mark.parametrize("kind", [b"0", b"S", b"L", b"x"])
def test_an_invalid_size_is_an_error(size, kind):
    with pytest.raises(CorruptError, match="corrupt at byte 512: invalid tar header"):
        list(read_members(io.BytesIO(_header("0.jpg") + _header("1.jpg", size, kind) + bytes(10240)), "a.tar"))


def test_a_size_in_base_256_is_read():
    data = _header("0.jpg", b"\x80" + bytes(9) + b"\x02\x58") + b"x" * 600 + bytes(424) + bytes(1024)
    assert [member.size for member in read_members(io.BytesIO(data), "a.tar")] == [600]


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        (b"7" * 900_000, "invalid pax header"),
        (b"11 path=1.jpg", "invalid pax header"),
        (b"99 path=1.jpg\n", "invalid pax header"),
        (b"0 path=1.jpg\n", "invalid pax header"),
        (b"13 path 1.jpg\n", "invalid pax header"),
        (b"12 size=-512\n", "invalid (size|pax header)"),
        (b"4009 size=" + b"9" * 3998 + b"\n", "invalid size"),
        (b"14 size=99999\n", "truncated after byte"),
        (b"5007 path=" + b"a" * 4996 + b"\n", "a name of"),
        (bytes(2 << 20), "an extended header of 2,097,152 bytes"),
    ],
    ids=range(10),  # pytest's own would contain the records
)
def test_invalid_extended_headers_are_refused_at_once(records, problem):
    body = _header("pax", b"%011o\0" % len(records), b"x") + records + bytes(-len(records) % 512)
    start = time.process_time()
    with pytest.raises(CorruptError, match=problem):
        list(read_members(io.BytesIO(body + _header("1.jpg") + bytes(10240)), "a.tar"))
    assert time.process_time() - start < 0.5


def test_endless_extended_headers_are_refused():
    with pytest.raises(CorruptError, match="more than 16 extended headers"):
        list(read_members(io.BytesIO(_header("pax", kind=b"x") * 20 + bytes(10240)), "a.tar"))


def test_samples_whose_members_are_not_adjacent_are_an_error_in_every_reader():
    def read(data: bytes) -> None:
        for _, members in read_groups(io.BytesIO(data), "a.tar"):
            list(members)

    with pytest.raises(PermanentError, match=r"a\.tar has other samples between the members of 0; .*--sort=name"):
        read(_tar(["0.jpg", "1.jpg", "0.txt", "1.txt"], tarfile.USTAR_FORMAT))
    with pytest.raises(PermanentError, match=r"a\.tar contains 0\.jpg twice"):
        read(_tar(["0.jpg", "0.JPG"], tarfile.USTAR_FORMAT))


def test_concatenated_tars_are_an_error_in_every_reader():
    first, second = (_tar([name], tarfile.USTAR_FORMAT) for name in ("0.jpg", "1.jpg"))
    with pytest.raises(PermanentError, match=rf"a\.tar consists of several tars, the second from byte {len(first)};"):
        list(read_members(io.BytesIO(first + second), "a.tar"))


def test_sparse_files_and_links_are_not_members():
    sparse = bytearray(_header("0.jpg", b"00000001000\0", b"S"))
    sparse[482], sparse[148:156] = 1, b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    data = (
        bytes(sparse)
        + bytes(512)
        + b"x" * 512
        + _header("1.jpg", b"00000001000\0", b"1")
        + _header("2.jpg")
        + bytes(1024)
    )
    assert [member.key for member in read_members(io.BytesIO(data), "a.tar")] == ["2"]


def test_only_the_wanted_images_are_read_and_each_is_compared_with_its_hash(tmp_path):
    images = {f"{number:09d}": bytes([number]) * 700 for number in range(4)}
    with TarWriter(tmp_path / "a.tar") as tar:
        for key, jpeg in images.items():
            tar.write(key, {"jpg": jpeg, "txt": b"text"})
    hashes = {key: hashlib.sha256(jpeg).hexdigest() for key, jpeg in images.items()}

    def read(wanted):
        with (tmp_path / "a.tar").open("rb") as stream:
            return dict(read_images(stream, "a.tar", wanted, "restore it"))

    first, second, *_ = images
    assert read({second: hashes[second], first: None}) == {first: images[first], second: images[second]}
    assert read({}) == {}
    with pytest.raises(CorruptError, match=rf"^a\.tar is corrupt: the image of {second} differs from its sha256"):
        read({second: hashes[first]})
    with pytest.raises(CorruptError, match=r"^a\.tar is corrupt: it has no image 9; restore it"):
        read({first: hashes[first], "9": None})

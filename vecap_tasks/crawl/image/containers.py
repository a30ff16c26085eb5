"""Checks of image containers before decoding: the pixels that will be decoded, and PNG chunks that do not matter.

A container can declare a small image and hold a large one. `decoded_size` returns the largest size that the decoder
would allocate, so that the pixel limit holds for what is decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vecap_tasks.errors import Failure

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that change the pixels or the stored metadata. All others are dropped: text, times, animation, private data.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf"})
_PNG_REQUIRED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})  # corrupt: the image is corrupt
_MAX_PROFILE = 1 << 20  # bytes of an unpacked ICC profile; Pillow rejects PNGs with larger ones
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
_JPEG2000_START = b"\xff\x4f\xff\x51"  # start of codestream, then the image and tile size segment
_MAX_OFFSETS = 10_000  # of samples in an AVIF file that are checked
_SEQUENCE_HEADER = 1  # AV1 OBU type


def read_png(body: bytes) -> bytes:
    """Return the PNG *body* with the chunks that matter. Raises Failure if one of those is corrupt.

    Browsers and libpng ignore damaged chunks of text or color profiles; Pillow rejects the whole image. A truncated
    file stays truncated.
    """
    kept = [_PNG_SIGNATURE]
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        kind = body[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(body[position : position + 4], "big")
        if end > len(body):
            kept.append(body[position:])
            break
        if kind in _PNG_CHUNKS:
            valid = zlib.crc32(memoryview(body)[position + 4 : end - 4]) == int.from_bytes(body[end - 4 : end], "big")
            if not valid and kind in _PNG_REQUIRED:
                raise Failure("damaged")
            if valid and (kind != b"iCCP" or _is_small_profile(body[position + 8 : end - 4])):
                kept.append(body[position:end])
        position = end
    return b"".join(kept)


def _is_small_profile(chunk: bytes) -> bool:
    """Return whether an iCCP chunk unpacks to at most `_MAX_PROFILE` bytes."""
    _, _, packed = chunk.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed[1:], _MAX_PROFILE)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail


def decoded_size(image: Image.Image, body: bytes) -> tuple[int, int]:
    """Return width and height in pixels of the largest buffer that decoding *image*, opened from *body*, allocates."""
    sizes = [image.size]
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", None)
        if isinstance(tags, ImageFileDirectory_v2) and _TILE_WIDTH in tags and _TILE_LENGTH in tags:
            sizes.append((_to_int(tags[_TILE_WIDTH]), _to_int(tags[_TILE_LENGTH])))
    elif image.format == "JPEG2000":
        at = body.find(_JPEG2000_START)
        if at >= 0 and len(body) >= at + 40:
            right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", body, at + 8)
            sizes += [(right - left, bottom - top), (min(tile_width, right), min(tile_height, bottom))]
    elif image.format == "AVIF":
        sizes += _av1_sizes(body)
    return max(sizes, key=lambda size: size[0] * size[1])


def _to_int(value: object) -> int:
    if isinstance(value, tuple):
        value = value[0] if value else 0
    return value if isinstance(value, int) else 0


def _av1_sizes(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield the frame sizes that the AV1 sequence headers of an AVIF file state.

    The headers are looked for where the item and chunk tables say that samples start.
    """
    for offset in sorted(set(_sample_offsets(body)))[:_MAX_OFFSETS]:
        size = _first_sequence_size(body, offset)
        if size is not None:
            yield size


def _sample_offsets(body: bytes) -> Iterator[int]:
    for name, width in ((b"stco", 4), (b"co64", 8)):
        at = body.find(name)
        while at >= 0:
            count = int.from_bytes(body[at + 8 : at + 12], "big")
            table = body[at + 12 : at + 12 + width * min(count, _MAX_OFFSETS)]
            yield from (int.from_bytes(table[n : n + width], "big") for n in range(0, len(table), width))
            at = body.find(name, at + 4)
    at = body.find(b"iloc")
    while at >= 0:
        yield from _item_offsets(body, at)
        at = body.find(b"iloc", at + 4)


def _item_offsets(body: bytes, at: int) -> Iterator[int]:
    """Yield the offsets of an item location box, ISO/IEC 14496-12 section 8.11.3. *at* is where its type starts."""
    end = min(len(body), at + max(int.from_bytes(body[at - 4 : at], "big") - 4, 0))
    version, sizes, position = body[at + 4], body[at + 8 : at + 10], at + 10
    if len(sizes) < 2 or version > 2:
        return
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version else 0
    id_size = 4 if version == 2 else 2

    def number(size: int) -> int:
        nonlocal position
        position += size
        return int.from_bytes(body[position - size : position], "big")

    for _ in range(min(number(id_size), _MAX_OFFSETS)):
        number(id_size)
        in_metadata = bool(number(2) & 15) if version else False  # construction method: not a file offset
        number(2)
        base = number(base_size)
        for _ in range(min(number(2), _MAX_OFFSETS)):
            number(index_size)
            offset = base + number(offset_size)
            number(length_size)
            if position > end:
                return
            yield offset + (body.find(b"idat") + 4 if in_metadata else 0)
        if position > end:
            return


def _first_sequence_size(body: bytes, position: int) -> tuple[int, int] | None:
    """Return the maximum frame size of the first sequence header among the OBUs (AV1 section 5.3) at *position*."""
    for _ in range(8):
        if position >= len(body):
            return None
        header = body[position]
        if header & 0x80 or not header & 2:  # forbidden bit; OBUs without a size are not used in files
            return None
        position += 2 if header & 4 else 1
        size = shift = 0
        for _ in range(8):
            if position >= len(body):
                return None
            byte = body[position]
            position += 1
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                break
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            return _sequence_size(body[position : position + min(size, 256)])
        position += size
    return None


def _sequence_size(data: bytes) -> tuple[int, int] | None:
    """Return the maximum frame size of a sequence header OBU, AV1 section 5.5.1; None if it ends too early."""
    bits = "".join(f"{byte:08b}" for byte in data)
    position = 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        if position > len(bits):
            raise EOFError
        return int(bits[position - count : position] or "0", 2)

    try:
        read(4)  # profile, still picture
        if read(1):  # reduced header
            read(5)
        else:
            _skip_operating_points(read)
        width_bits, height_bits = read(4) + 1, read(4) + 1
        return read(width_bits) + 1, read(height_bits) + 1
    except EOFError:
        return None


def _skip_operating_points(read: Callable[[int], int]) -> None:
    delay_bits = 0
    has_decoder_model = False
    if read(1):  # timing info
        read(64)
        if read(1):  # equal picture interval: variable-length code
            zeros = 0
            while not read(1):
                zeros += 1
            read(zeros)
        has_decoder_model = bool(read(1))
        if has_decoder_model:
            delay_bits = read(5) + 1
            read(42)
    has_initial_delay = read(1)
    for _ in range(read(5) + 1):
        read(12)
        if read(5) > 7:
            read(1)
        if has_decoder_model and read(1):
            read(2 * delay_bits + 1)
        if has_initial_delay and read(1):
            read(4)

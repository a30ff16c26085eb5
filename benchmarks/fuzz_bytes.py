"""Generic mutations of inputs: bits, ranges, numbers, tokens, splices and repetitions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

MAX_BYTES = 320_000
_MAX_REPEATED = 300_000  # bytes of a repetition
_NUMBER = re.compile(rb"-?\d+")
NUMBERS = (
    b"0", b"-1", b"1", b"7", b"8", b"255", b"256", b"65535", b"65536", b"2147483647", b"2147483648", b"4294967295",
    b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"1e999",
    b"-1e999", b"1e-999", b"NaN", b"0x7f", b"007", b"1_000", b"\xd9\xa1\xd9\xa2", b"\xc2\xb2", b"+5", b" 5", b"5 ",
    b"9" * 400, b"9" * 5000, b"1." + b"3" * 400, b"",
)  # fmt: skip
_BYTES = (0, 1, 9, 10, 13, 32, 34, 39, 44, 47, 58, 60, 62, 92, 127, 128, 0xC3, 0xE2, 0xED, 0xEF, 0xF0, 0xFE, 0xFF)
COMMON = (
    b"\x00",
    b"\r\n",
    b"\n",
    b"\t",
    b" ",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\xed\xa0\x80",
)

Make = Callable[[Random], bytes]


def mutate(random: Random, data: bytes, tokens: Sequence[bytes], make: Make) -> bytes:
    """Return *data* after no, one or several mutations. *tokens* are of its grammar; *make* returns another seed."""
    for _ in range(random.choice((0, 0, 0, 1, 1, 1, 2, 3, 6))):
        data = random.choice(_MUTATIONS)(random, data, tokens, make)[:MAX_BYTES]
    if tokens and random.random() < 0.015:
        data = _repeat(random, data, tokens)
    return data[:MAX_BYTES]


def _flip(random: Random, data: bytes, _tokens: Sequence[bytes], _make: Make) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _set(random: Random, data: bytes, _tokens: Sequence[bytes], _make: Make) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[random.randrange(len(changed))] = random.choice(_BYTES)
    return bytes(changed)


def _range(random: Random, data: bytes, longest: int = 200) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.randrange(1, longest))


def _delete(random: Random, data: bytes, _tokens: Sequence[bytes], _make: Make) -> bytes:
    start, end = _range(random, data)
    return data[:start] + data[end:]


def _duplicate(random: Random, data: bytes, _tokens: Sequence[bytes], _make: Make) -> bytes:
    start, end = _range(random, data)
    return data[:end] + data[start:end] * random.choice((1, 1, 2, 8, 100)) + data[end:]


def _move(random: Random, data: bytes, _tokens: Sequence[bytes], _make: Make) -> bytes:
    start, end = _range(random, data)
    rest = data[:start] + data[end:]
    target = random.randrange(len(rest) + 1)
    return rest[:target] + data[start:end] + rest[target:]


def _truncate(random: Random, data: bytes, _tokens: Sequence[bytes], _make: Make) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _splice(random: Random, data: bytes, _tokens: Sequence[bytes], make: Make) -> bytes:
    other = make(random)
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _insert_token(random: Random, data: bytes, tokens: Sequence[bytes], _make: Make) -> bytes:
    start = random.randrange(len(data) + 1)
    token = random.choice(tokens) if tokens and random.random() < 0.8 else random.choice(COMMON)
    return data[:start] + token * random.choice((1, 1, 1, 2, 20)) + data[start:]


def _swap_token(random: Random, data: bytes, tokens: Sequence[bytes], _make: Make) -> bytes:
    present = [token for token in tokens if token and token in data]
    if not present:
        return data
    return data.replace(random.choice(present), random.choice(tokens), random.choice((1, 1, -1)))


def _number(random: Random, data: bytes, _tokens: Sequence[bytes], _make: Make) -> bytes:
    found = list(_NUMBER.finditer(data[:20_000]))
    if not found:
        return data
    match = random.choice(found)
    return data[: match.start()] + random.choice(NUMBERS) + data[match.end() :]


def _noise(random: Random, data: bytes, _tokens: Sequence[bytes], _make: Make) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + random.randbytes(random.choice((1, 2, 4, 64, 1024))) + data[start:]


def _repeat(random: Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    """Insert a very long repetition of tokens, possibly nested: `AAA…BBB…` or `ABAB…`."""
    first, second = random.choice(tokens), random.choice((b"", *COMMON, *tokens))
    size = random.choice((3_000, 20_000, 100_000, _MAX_REPEATED))
    count = max(1, size // max(1, len(first + second)))
    run = first * count + second * count if random.random() < 0.4 else (first + second) * count
    start = random.randrange(len(data) + 1)
    return data[:start] + run[:_MAX_REPEATED] + data[start:]


_MUTATIONS = (
    _flip, _set, _delete, _duplicate, _move, _truncate, _splice, _insert_token, _insert_token, _swap_token, _swap_token,
    _number, _number, _noise,
)  # fmt: skip

"""Hand-written color profiles (ICC.1:2022), so that a formula gives the expected colors."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

_D50 = (0.9642, 1.0, 0.8249)
# Columns are the primaries' XYZ under D50.
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def profile(space: str, connection: str, tags: Mapping[str, bytes], kind: str = "mntr") -> bytes:
    """Return a version 4 profile for colors of *space* with connection space *connection* (XYZ or Lab)."""
    tags = {"desc": _text("made for a test"), "cprt": _text("CC0"), "wtpt": _xyz(_D50), **tags}
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        padded = body + bytes(-len(body) % 4)
        table += name.encode() + struct.pack(">II", start + len(data), len(body))
        data += padded
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"\0\0\0\0", 0x04300000, kind.encode(), space.encode(),
                         connection.encode())  # fmt: skip
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _number(_D50)
    return header.ljust(128, b"\0") + table + data


def rgb_profile(primaries: np.ndarray) -> bytes:
    """Return the profile of a display with *primaries* and the tone curve of sRGB."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _number((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    tags = {f"{one}XYZ": _xyz(primaries[:, place]) for place, one in enumerate("rgb")}
    return profile("RGB ", "XYZ ", tags | {f"{one}TRC": curve for one in "rgb"})


def linear_gray_profile() -> bytes:
    """Return the profile of linear-light gray."""
    return profile("GRAY", "XYZ ", {"kTRC": b"curv" + bytes(8)})


def cmyk_profile() -> bytes:
    """Return the profile of gray inks: L* is 100 minus 25 per full ink."""
    nodes = bytearray()
    for node in range(16):
        nodes += bytes((round(255 * (100 - 25 * node.bit_count()) / 100), 128, 128))
    matrix = _number((1, 0, 0, 0, 1, 0, 0, 0, 1))
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + struct.pack(">BBBB", 4, 3, 2, 0) + matrix + ramp * 4 + bytes(nodes) + ramp * 3
    return profile("CMYK", "Lab ", {"A2B0": lut}, "prtr")


def shown(color: tuple[int, int, int], primaries: np.ndarray) -> tuple[int, int, int]:
    """Return *color* of a display with *primaries* in sRGB, clipped to its gamut."""
    coded = np.asarray(color) / 255
    light = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    return encoded(np.linalg.solve(SRGB, primaries @ light))


def encoded(light: np.ndarray) -> tuple[int, int, int]:
    """Return linear light (0 to 1) as sRGB values (0 to 255)."""
    light = np.clip(light, 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in coded)
    return red, green, blue


def _number(values: tuple[float, ...]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + _number(tuple(values))


def _text(text: str) -> bytes:
    coded = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(coded), 28) + coded

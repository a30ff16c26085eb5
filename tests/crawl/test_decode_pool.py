"""Decoding in batches: each caller gets the result of its own body."""

import asyncio
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from tests.crawl import broken_functions
from tests.crawl.web import image
from vecap_tasks.config import ImageConfig, LimitsConfig
from vecap_tasks.crawl.image import decode_pool
from vecap_tasks.crawl.image.decode_pool import DecodePool


def run_pool(work, config=ImageConfig(), limits=LimitsConfig()):  # noqa: B008 - immutable
    with ThreadPoolExecutor(2) as threads:
        return asyncio.run(work(DecodePool(config, limits, threads, 2)))


def test_each_caller_gets_its_own_result():
    bodies = [image(size=(40 + number, 30)) if number % 3 else b"no image %d" % number for number in range(50)]

    async def work(decoders):
        return await asyncio.gather(*map(decoders.decode, bodies, map(str, range(50))))

    results = run_pool(work)
    assert [result.sha256 for result in results] == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert [result.image and result.image.width for result in results] == [40 + n if n % 3 else None for n in range(50)]
    assert [result.failure and result.failure.reason for result in results] == [
        None if n % 3 else "not_an_image" for n in range(50)
    ]


def test_cancelled_callers_do_not_block_others():
    async def work(decoders):
        tasks = [asyncio.create_task(decoders.decode(image(size=(40 + number, 30)), "x")) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run_pool(work)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert [result.image.width for result in results[1::2]] == list(range(41, 60, 2))


def test_other_errors_are_raised_and_decoding_continues(monkeypatch):
    """A full disk, for example, is not a failed row and does not block waiting callers."""
    monkeypatch.setattr(decode_pool, "_DECODE", f"{broken_functions.MODULE}:decode_and_hash")

    async def work(decoders):
        with pytest.raises(OSError, match="No space left"):
            await decoders.decode(b"DISK_FULL", "x")
        return await decoders.decode(image(), "x")

    assert run_pool(work).image.width == 40


def test_the_memory_limit_admits_an_image_of_max_pixels():
    side = 3000
    buffer = io.BytesIO()
    Image.effect_noise((side // 8, side // 8), 60).convert("RGBA").resize((side, side)).save(buffer, "JPEG2000")

    async def work(decoders):
        return await decoders.decode(buffer.getvalue(), "x")

    config, limits = ImageConfig(max_pixels=side * side), LimitsConfig(memory=128 << 20, cpu_seconds=100)
    result = run_pool(work, config, limits)
    assert result.failure is None
    assert result.image.original_width == side

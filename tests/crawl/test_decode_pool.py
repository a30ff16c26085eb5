"""Bodies that are decoded in lots: each comes back to whoever gave it."""

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.crawl.web import image
from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image import decode_pool
from vecap_tasks.crawl.image.decode_pool import DecodePool


def run(work):
    with ThreadPoolExecutor(2) as threads:
        return asyncio.run(work(DecodePool(ImageConfig(), threads, 2)))


def test_each_gets_its_own():
    bodies = [image(size=(40 + number, 30)) if number % 3 else b"no image %d" % number for number in range(50)]

    async def work(decoders):
        return await asyncio.gather(*map(decoders.decode, bodies, map(str, range(50))))

    made = run(work)
    assert [one.sha256 for one in made] == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert [one.image and one.image.width for one in made] == [40 + n if n % 3 else None for n in range(50)]
    assert [one.failure and one.failure.reason for one in made] == [
        None if n % 3 else "not_an_image" for n in range(50)
    ]


def test_whoever_is_ended_holds_up_nobody():
    async def work(decoders):
        tasks = [asyncio.create_task(decoders.decode(image(size=(40 + number, 30)), "x")) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    made = run(work)
    assert all(isinstance(one, asyncio.CancelledError) for one in made[::2])
    assert [one.image.width for one in made[1::2]] == list(range(41, 60, 2))


def test_a_fault_that_is_not_an_image_s_is_raised_and_the_next_are_decoded(monkeypatch):
    """Such as a lack of memory: it must not look like a row that failed, nor leave anybody waiting."""
    real = decode_pool.decode

    def decode(body, config):
        if body == b"fault":
            raise MemoryError
        return real(body, config)

    monkeypatch.setattr(decode_pool, "decode", decode)

    async def work(decoders):
        with pytest.raises(MemoryError):
            await decoders.decode(b"fault", "x")
        return await decoders.decode(image(), "x")

    assert run(work).image.width == 40

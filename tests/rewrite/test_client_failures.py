"""The chat-completions client against a server that fails, is slow or cannot be reached."""

import asyncio
import socket
import time
from contextlib import closing

import pytest
from aiohttp import web

from tests.rewrite.server import ReceivedRequest, Server, completion, echo, error, fuse, settings
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.backends import openai_endpoint
from vecap_tasks.rewrite.backends.sampling_params import GREEDY
from vecap_tasks.rewrite.openai_models import ServedLlm
from vecap_tasks.rewrite.prompt import load_prompt


def test_an_overloaded_server_gets_fewer_requests_and_answers_all() -> None:
    """The server accepts four requests at a time and answers others with 429."""
    in_flight = 0

    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        nonlocal in_flight
        if in_flight >= 4:
            return error(429, "slow down")
        in_flight += 1
        await asyncio.sleep(0.02)
        in_flight -= 1
        return await echo(request)

    with Server(answer) as server:
        texts = fuse(settings(server.url, requests=64, max_attempts=8), 150)
    assert [text.problem for text in texts] == [None] * 150
    assert len(server.requests) - 150 < 75  # few retries


def test_all_requests_wait_for_retry_after() -> None:
    times: list[float] = []

    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        times.append(request.at)
        if request.number == 0:
            return error(429, "later", **{"Retry-After": "1"})
        return await echo(request)

    with Server(answer) as server:
        fuse(settings(server.url, requests=1), 3)
    assert times[1] - times[0] >= 0.9
    assert len(times) == 4


def test_a_slow_server_gets_fewer_requests() -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        return await echo(request)

    with Server(answer) as server:
        fuse(settings(server.url, requests=64, latency_threshold=0.05), 25)
    assert server.max_in_flight <= 8


async def _hang(request: ReceivedRequest) -> web.StreamResponse:
    await asyncio.sleep(60)
    return await echo(request)


async def _half(request: ReceivedRequest) -> web.StreamResponse:
    return web.Response(body=b'{"choices": [{"message": {"conte', content_type="application/json")


async def _page(request: ReceivedRequest) -> web.StreamResponse:
    return web.Response(text="<html><body>Welcome</body></html>", content_type="text/html")


async def _other(request: ReceivedRequest) -> web.StreamResponse:
    return web.json_response({"choices": []})


async def _status_500(request: ReceivedRequest) -> web.StreamResponse:
    return error(500, "CUDA error: an illegal memory access")


FAULTS = {
    "hang": (_hang, r"no response within 0\.3 seconds"),
    "half": (_half, "the response is not valid JSON"),
    "page": (_page, "the response is text/html, not JSON"),
    "other": (_other, "the response is JSON but not a chat completion"),
    "500": (_status_500, "500 CUDA error: an illegal memory access"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_permanent_fault_is_a_one_line_error(fault: str) -> None:
    answer, message = FAULTS[fault]
    with (
        Server(answer) as server,
        pytest.raises(VecapError, match=rf"model tiny at {server.url}: {message}; check") as exc_info,
    ):
        fuse(settings(server.url, max_attempts=2, deadline=0.3), 3)
    assert "\n" not in str(exc_info.value)
    assert len(server.requests) <= 6 + 1  # plus a test request


@pytest.mark.parametrize("fault", FAULTS)
def test_a_temporary_fault_is_retried(fault: str) -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        return await (FAULTS[fault][0] if request.number in (1, 3) else echo)(request)

    with Server(answer) as server:
        texts = fuse(settings(server.url, deadline=0.3), 6)
    assert [text.problem for text in texts] == [None] * 6
    assert len(server.requests) == 8


def test_one_failing_request_does_not_block_the_others() -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await (_status_500 if "thing 2" in request.text else echo)(request)

    with Server(answer) as server:
        texts = fuse(settings(server.url, max_attempts=2, requests=2), 8)
    assert [text.problem for text in texts] == [None, None, "server_failed", *[None] * 5]


def test_the_error_for_an_unknown_model_lists_the_served_models() -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        return error(404, "The model `huge` does not exist.")

    with (
        Server(answer) as server,
        pytest.raises(
            VecapError,
            match=r"model huge: .* rejected the request \(404 The model `huge` does not exist\.\); "
            "it serves tiny; correct the model's name",
        ) as exc_info,
    ):
        fuse(settings(server.url, model="huge"), 3)
    assert "\n" not in str(exc_info.value)


def test_the_error_for_an_unreachable_server_is_one_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        VecapError, match=rf"model tiny at http://127.0.0.1:{port}/v1: ClientConnectorError"
    ) as exc_info:
        fuse(settings(f"http://127.0.0.1:{port}/v1", max_attempts=2), 3)
    assert "\n" not in str(exc_info.value)


def test_an_unreachable_url_is_skipped_while_others_answer() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with Server() as first, Server() as second:
        texts = fuse(settings(dead, first.url, second.url), 100)
    assert [text.problem for text in texts] == [None] * 100
    assert len(first.requests) + len(second.requests) == 100
    assert min(len(first.requests), len(second.requests)) > 20


def test_a_failed_endpoint_resumes_with_one_request(monkeypatch) -> None:
    monkeypatch.setattr(openai_endpoint, "_BACKOFF_SECONDS", (0.05, 0.2))
    endpoint = openai_endpoint.Endpoint("http://a.example", 64, 30)
    for _ in range(3):
        endpoint.record_failure(time.monotonic())
    assert endpoint.closed_until > time.monotonic()
    assert endpoint.limit == 1
    for _ in range(70):
        endpoint.record_response(time.monotonic())
    assert 8 < endpoint.limit < 20  # linear growth


def test_a_too_long_prompt_is_shortened_by_cutting_the_alttext() -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        if len(request.text) > 250:
            return error(400, "This model's maximum context length is 250 tokens.")
        return completion(request.text.split("Description: ")[1])

    with Server(answer) as server:
        llm = ServedLlm(settings(server.url), load_prompt("fuse"), 512)
        long, hopeless = llm.fuse([(("x " * 250, "a cat"), GREEDY), (("x", "cat " * 100), GREEDY)])
    assert long.text == "a cat"
    assert hopeless.problem == "prompt_too_long"

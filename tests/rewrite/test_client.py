"""The chat-completions client against a healthy server and against every kind of failure."""

import asyncio
import base64
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.rewrite.server import CANARY, ReceivedRequest, Server, completion, echo, error, fuse, rejecting, settings
from vecap_tasks.config import ModelConfig, load_config
from vecap_tasks.errors import ConfigError, PermanentError, VecapError
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row
from vecap_tasks.rewrite.backends import openai_client
from vecap_tasks.rewrite.backends.sampling_params import GREEDY, Sampling
from vecap_tasks.rewrite.openai_models import ServedLlm, ServedVlm, describe_server
from vecap_tasks.rewrite.prompt import load_prompt

# A healthy server.


def test_texts_are_in_request_order_with_token_counts() -> None:
    with Server() as server:
        texts = fuse(settings(server.url), 50)
    assert [text.text.split("Description: ")[1] for text in texts] == [f"thing {number}" for number in range(50)]
    assert {(text.prompt_tokens, text.ended, text.problem) for text in texts} == {(11, True, None)}
    body = server.requests[0].body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 64, 0)
    assert "seed" not in body


def test_a_sampled_request_has_a_seed_and_the_configured_fields() -> None:
    with Server() as server:
        fuse(
            settings(server.url, body={"chat_template_kwargs": {"enable_thinking": False}}),
            1,
            Sampling(1, 0.7, 1 << 62),
        )
    body = server.requests[0].body
    assert (body["temperature"], body["seed"]) == (0.7, 0)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_an_image_is_sent_as_its_stored_bytes(jpeg_of) -> None:
    with Server() as server:
        vlm = ServedVlm(settings(server.url), load_prompt("describe"))
        row = Row("a", "", "a", None, "")
        texts = vlm.describe(iter([(jpeg_of(row, 3), GREEDY), (ImageInput(row, None, b"no picture"), GREEDY)]))
    assert [text.problem for text in texts] == [None, "unreadable_image"]
    image, words = server.requests[0].body["messages"][0]["content"]
    head, data = image["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data) == jpeg_of(row, 3).jpeg
    assert words["text"] == load_prompt("describe").text
    assert len(server.requests) == 1


def test_a_truncated_text_is_marked_and_missing_content_is_empty() -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        return (
            completion("a cat on", "length")
            if request.number == 0
            else web.json_response({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})
        )

    with Server(answer) as server:
        model = settings(server.url)
        assert [text.ended for text in fuse(model)] == [False]
        assert [(text.text, text.tokens) for text in fuse(model)] == [("", 0)]


def test_requests_in_flight_grow_to_the_limit() -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await echo(request)

    with Server(answer) as server:
        fuse(settings(server.url, requests=12), 200)
    assert server.max_in_flight == 12


def test_two_threads_can_send_requests() -> None:
    with Server() as server, ThreadPoolExecutor(2) as threads:
        model = settings(server.url)
        assert len({len(texts) for texts in threads.map(lambda _: fuse(model, 20), range(2))}) == 1


# A failing server.


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
        pytest.raises(
            VecapError, match=rf"model tiny at {server.url}: {message} \(after 2 attempts\); check"
        ) as exc_info,
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
    monkeypatch.setattr(openai_client, "_BACKOFF_SECONDS", (0.05, 0.2))
    endpoint = openai_client.Endpoint("http://a.example", 64, 30)
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


# Row faults and job faults.

UNKNOWN = {"error": {"message": "I do not like this one"}}
ASPECT = {"object": "error", "message": "absolute aspect ratio must be smaller than 200, got 250.0", "code": 400}
TOO_LONG = {"error": {"message": "The decoder prompt (length 5951) is longer than the maximum model length of 4096."}}
FILTERED = {"error": {"message": "The response was filtered", "code": "content_filter", "status": 400}}
ROWS = {
    "unknown": (400, UNKNOWN, "refused_by_server"),
    "teapot": (418, UNKNOWN, "refused_by_server"),
    "too long": (400, TOO_LONG, "prompt_too_long"),
    "TGI": (422, {"error": "Input validation error: `inputs` must have less than 1024 tokens."}, "prompt_too_long"),
    "filter": (400, FILTERED, "content_filter"),
    "image": (500, {"error": {"message": "cannot identify image file <_io.BytesIO>"}}, "image_refused"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_rejected_row_has_its_reason_and_the_others_have_texts(kind: str) -> None:
    status, body, problem = ROWS[kind]
    with Server(rejecting({"thing 2": (status, body)})) as server:
        texts = fuse(settings(server.url, requests=1), 5)
    assert [text.problem for text in texts] == [None, None, problem, None, None]
    assert str(status) in texts[2].message
    assert len(server.requests) <= 5 + 1  # plus a test request; the row is not retried


@pytest.mark.parametrize("kind", ROWS)
def test_a_test_request_separates_row_faults_from_job_faults(kind: str) -> None:
    status, body, problem = ROWS[kind]
    with Server(rejecting({"thing 0": (status, body)})) as server:
        model = settings(server.url, max_new_tokens=7)
        assert [text.problem for text in fuse(model)] == [problem]
        row, test = (request.body for request in server.requests)
        assert row["messages"] != test["messages"]
        assert row | {"messages": []} == test | {"messages": []}  # the same parameters
    with (
        Server(rejecting({"": (status, body)})) as server,
        pytest.raises(
            VecapError, match=rf"{server.url} rejected the request \({status} .*\); .*a short test"
        ) as exc_info,
    ):
        fuse(settings(server.url), 5)
    assert "\n" not in str(exc_info.value)


def test_the_test_request_of_a_served_vlm_has_a_valid_image(jpeg_of) -> None:
    bad, good = (jpeg_of(Row(f"{number}", "", "a", None, ""), number) for number in range(2))
    with Server(rejecting({base64.b64encode(bad.jpeg).decode(): (400, UNKNOWN)})) as server:
        vlm = ServedVlm(settings(server.url), load_prompt("describe"))
        texts = vlm.describe(iter([(bad, GREEDY), (good, GREEDY)]))
    assert [text.problem for text in texts] == ["refused_by_server", None]


def test_a_single_failing_row_is_a_row_fault() -> None:
    """As in a retry of a shard whose other rows are finished."""
    with Server(rejecting({"thing 0": (500, {"error": {"message": "oops"}})})) as server:
        assert [text.problem for text in fuse(settings(server.url, max_attempts=1))] == ["server_failed"]


def test_each_of_several_servers_is_tested_separately() -> None:
    """One of two servers has another model and an unknown error: its rows are not at fault."""
    with (
        Server() as healthy,
        Server(rejecting({"": (400, UNKNOWN)})) as faulty,
        pytest.raises(VecapError, match=f"{faulty.url} rejected the request"),
    ):
        fuse(settings(healthy.url, faulty.url), 10)


JOBS = {
    "key": (
        401,
        {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}},
        "set api_key_env to its variable",
    ),
    "url": (404, {"detail": "Not Found"}, "correct the model's name, or its server.urls"),
    "parameter": (
        400,
        {"error": {"message": "'temperature' does not support 0", "code": "unsupported_value"}},
        "correct the setting that sends it: max_new_tokens, temperature, or server.body",
    ),
}


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_fault_is_an_error_without_a_test_request(kind: str) -> None:
    status, body, hint = JOBS[kind]
    with Server(rejecting({"": (status, body)})) as server, pytest.raises(VecapError, match=hint) as exc_info:
        fuse(settings(server.url, requests=1), 3)
    assert "\n" not in str(exc_info.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                "code": "unsupported_parameter",
            }
        },
        {"error": {"message": "Unrecognized request argument supplied: max_tokens"}},
        {"error": {"message": "max_tokens is deprecated for this model"}},
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}
            ]
        },
    ],
)
def test_max_completion_tokens_is_used_after_the_server_requires_it(body: dict[str, Any]) -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        if "max_tokens" in request.body:
            return web.json_response(body, status=400)
        return await echo(request)

    with Server(answer) as server:
        model = settings(server.url, requests=1, max_attempts=1, max_new_tokens=7)
        assert [text.problem for text in [*fuse(model, 3), *fuse(model, 2)]] == [None] * 5
    assert [request.body.get("max_completion_tokens") for request in server.requests] == [None, *[7] * 5]


@pytest.mark.parametrize("status", [400, 402, 429])
def test_an_account_without_credit_stops_the_job_at_once(status: int) -> None:
    """A 429 of a rate limit is retried; this one would never pass."""
    body = {"error": {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": None}}

    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        return web.json_response(body, status=status)

    with Server(answer) as server, pytest.raises(PermanentError, match="add credit to the account") as exc_info:
        fuse(settings(server.url, requests=1, max_attempts=5), 3)
    assert "\n" not in str(exc_info.value)
    assert len(server.requests) == 1


# The API key.


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
def test_the_api_key_is_sent_only_to_the_server(status: int, monkeypatch, caplog) -> None:
    """The server repeats the key in every response."""
    monkeypatch.setenv("VECAP_TEST_KEY", CANARY)

    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        key = request.headers["Authorization"]
        return await echo(request) if status == 200 else error(status, f"{key} is no good", **{"X-Key": key})

    with caplog.at_level(logging.DEBUG), Server(answer) as server:
        model = settings(server.url, max_attempts=2, api_key_env="VECAP_TEST_KEY")
        if status == 200:
            fuse(model)
        else:
            with pytest.raises(VecapError) as exc_info:
                fuse(model)
            assert "[key] is no good" in str(exc_info.value)
            chain = [exc_info.value]
            while chain[-1].__cause__ or (chain[-1].__context__ and not chain[-1].__suppress_context__):
                chain.append(chain[-1].__cause__ or chain[-1].__context__)
            assert CANARY not in repr(chain)
        assert server.requests[0].headers["Authorization"] == f"Bearer {CANARY}"
        assert CANARY not in str(describe_server(model))
    assert CANARY not in caplog.text


def test_a_missing_or_inline_api_key_is_an_error(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("VECAP_TEST_KEY", raising=False)
    with pytest.raises(VecapError, match="VECAP_TEST_KEY, which holds the model's API key, is not set"):
        fuse(settings("http://127.0.0.1:1/v1", api_key_env="VECAP_TEST_KEY"))
    demo = Path(__file__).parents[2] / "configs" / "demo.yaml"
    served = "rewrite.vlm={backend: openai, model: m, prompt: describe, server: "
    for server in (
        f"{{urls: [http://a.example/v1], api_key_env: {CANARY}}}",
        f"{{urls: ['http://user:{CANARY}@a.example/v1']}}",
        f"{{urls: ['http://a.example/v1?key={CANARY}']}}",
    ):
        with pytest.raises(ConfigError, match=r"rewrite\.vlm\.server") as exc_info:
            load_config(demo, [f"{served}{server}}}"])
        assert CANARY not in str(exc_info.value)


def test_contradictory_settings_are_an_error() -> None:
    for values, message in (
        ({"backend": "openai"}, "set both or neither"),
        ({"server": {"urls": ["http://a.example"]}}, "set both or neither"),
        ({"num_captions": 2}, "raise the temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelConfig.model_validate({"model": "m", "prompt": "fuse"} | values)

"""What is asked of a chat-completions server, and what becomes of it: a server that is well, and every way to fail."""

import asyncio
import base64
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web

from tests.rewrite.server import CANARY, Asked, Server, completion, echo, error, fuse, refusing, settings
from vecap_tasks.config import ModelConfig, load_config
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row
from vecap_tasks.rewrite.backends import openai_client
from vecap_tasks.rewrite.backends.sampling_params import GREEDY, Sampling
from vecap_tasks.rewrite.openai_models import ServedLlm, ServedVlm, describe_server
from vecap_tasks.rewrite.prompt import load_prompt

# A server that is well.


def test_answers_come_in_order_with_what_they_took() -> None:
    with Server() as server:
        texts = fuse(settings(server.url), 50)
    assert [text.text.split("Description: ")[1] for text in texts] == [f"thing {number}" for number in range(50)]
    assert {(text.prompt_tokens, text.ended, text.problem) for text in texts} == {(11, True, None)}
    body = server.asked[0].body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 64, 0)
    assert "seed" not in body


def test_a_sampled_text_is_asked_for_with_its_seed_and_more_fields_of_the_body() -> None:
    with Server() as server:
        fuse(
            settings(server.url, body={"chat_template_kwargs": {"enable_thinking": False}}),
            1,
            Sampling(1, 0.7, 1 << 62),
        )
    body = server.asked[0].body
    assert (body["temperature"], body["seed"]) == (0.7, 0)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_picture_travels_as_its_stored_bytes(jpeg_of) -> None:
    with Server() as server:
        vlm = ServedVlm(settings(server.url), load_prompt("describe"))
        row = Row("a", "", "a", None, "")
        texts = vlm.describe(iter([(jpeg_of(row, 3), GREEDY), (ImageInput(row, None, b"no picture"), GREEDY)]))
    assert [text.problem for text in texts] == [None, "unreadable_image"]
    image, words = server.asked[0].body["messages"][0]["content"]
    head, data = image["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data) == jpeg_of(row, 3).jpeg
    assert words["text"] == load_prompt("describe").text
    assert len(server.asked) == 1


def test_a_text_that_ran_into_the_limit_says_so_and_one_without_content_is_empty() -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        return (
            completion("a cat on", "length")
            if asked.number == 0
            else web.json_response({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})
        )

    with Server(answer) as server:
        model = settings(server.url)
        assert [text.ended for text in fuse(model)] == [False]
        assert [(text.text, text.tokens) for text in fuse(model)] == [("", 0)]


def test_requests_in_flight_are_bounded_and_grow_up_to_the_bound() -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await echo(asked)

    with Server(answer) as server:
        fuse(settings(server.url, requests=12), 200)
    assert server.most == 12


def test_two_threads_may_ask_at_once() -> None:
    with Server() as server, ThreadPoolExecutor(2) as threads:
        model = settings(server.url)
        assert len({len(texts) for texts in threads.map(lambda _: fuse(model, 20), range(2))}) == 1


# A server that is not.


def test_a_server_that_asks_for_less_gets_less_and_answers_all() -> None:
    """It bears four requests at once, and refuses more with 429."""
    flying = 0

    async def answer(asked: Asked) -> web.StreamResponse:
        nonlocal flying
        if flying >= 4:
            return error(429, "slow down")
        flying += 1
        await asyncio.sleep(0.02)
        flying -= 1
        return await echo(asked)

    with Server(answer) as server:
        texts = fuse(settings(server.url, requests=64, max_attempts=8), 150)
    assert [text.problem for text in texts] == [None] * 150
    assert len(server.asked) - 150 < 75  # it is not hammered


def test_retry_after_is_waited_for_by_all() -> None:
    times: list[float] = []

    async def answer(asked: Asked) -> web.StreamResponse:
        times.append(asked.at)
        if asked.number == 0:
            return error(429, "later", **{"Retry-After": "1"})
        return await echo(asked)

    with Server(answer) as server:
        fuse(settings(server.url, requests=1), 3)
    assert times[1] - times[0] >= 0.9
    assert len(times) == 4


def test_a_slow_server_is_asked_less_at_once() -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        return await echo(asked)

    with Server(answer) as server:
        fuse(settings(server.url, requests=64, latency_threshold=0.05), 25)
    assert server.most <= 8


async def _hang(asked: Asked) -> web.StreamResponse:
    await asyncio.sleep(60)
    return await echo(asked)


async def _half(asked: Asked) -> web.StreamResponse:
    return web.Response(body=b'{"choices": [{"message": {"conte', content_type="application/json")


async def _page(asked: Asked) -> web.StreamResponse:
    return web.Response(text="<html><body>Welcome</body></html>", content_type="text/html")


async def _other(asked: Asked) -> web.StreamResponse:
    return web.json_response({"choices": []})


async def _status_500(asked: Asked) -> web.StreamResponse:
    return error(500, "CUDA error: an illegal memory access")


FAULTS = {
    "hang": (_hang, r"no answer within 0\.3 seconds"),
    "half": (_half, "the answer is no whole JSON"),
    "page": (_page, "the answer is text/html, not JSON"),
    "other": (_other, "the answer is JSON, but no chat completion"),
    "500": (_status_500, "500 CUDA error: an illegal memory access"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_told_in_one_line(fault: str) -> None:
    answer, message = FAULTS[fault]
    with (
        Server(answer) as server,
        pytest.raises(VecapError, match=rf"model tiny at {server.url}: {message}, in the last of 2 tries; see") as told,
    ):
        fuse(settings(server.url, max_attempts=2, deadline=0.3), 3)
    assert "\n" not in str(told.value)
    assert len(server.asked) <= 6 + 1  # and a test request


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_nothing_but_time(fault: str) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        return await (FAULTS[fault][0] if asked.number in (1, 3) else echo)(asked)

    with Server(answer) as server:
        texts = fuse(settings(server.url, deadline=0.3), 6)
    assert [text.problem for text in texts] == [None] * 6
    assert len(server.asked) == 8


def test_a_request_that_alone_fails_does_not_hold_up_the_others() -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await (_status_500 if "thing 2" in asked.text else echo)(asked)

    with Server(answer) as server:
        texts = fuse(settings(server.url, max_attempts=2, requests=2), 8)
    assert [text.problem for text in texts] == [None, None, "server_failed", *[None] * 5]


def test_a_model_that_is_not_there_is_told_with_those_that_are() -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        return error(404, "The model `huge` does not exist.")

    with (
        Server(answer) as server,
        pytest.raises(
            VecapError,
            match=r"model huge: .* refuses the request \(404 The model `huge` does not exist\.\); "
            "it serves tiny; correct the model's name",
        ) as told,
    ):
        fuse(settings(server.url, model="huge"), 3)
    assert "\n" not in str(told.value)


def test_no_server_is_told_in_one_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(VecapError, match=rf"model tiny at http://127.0.0.1:{port}/v1: ClientConnectorError") as told:
        fuse(settings(f"http://127.0.0.1:{port}/v1", max_attempts=2), 3)
    assert "\n" not in str(told.value)


def test_a_dead_address_is_left_aside_while_others_answer() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with Server() as one, Server() as other:
        texts = fuse(settings(dead, one.url, other.url), 100)
    assert [text.problem for text in texts] == [None] * 100
    assert len(one.asked) + len(other.asked) == 100
    assert min(len(one.asked), len(other.asked)) > 20


def test_an_address_that_failed_is_tried_again_with_one_request(monkeypatch) -> None:
    monkeypatch.setattr(openai_client, "_BACKOFF_SECONDS", (0.05, 0.2))
    place = openai_client.Endpoint("http://a.example", 64, 30)
    for _ in range(3):
        place.failed(time.monotonic())
    assert place.closed_until > time.monotonic()
    assert place.limit == 1
    for _ in range(70):
        place.answered(time.monotonic())
    assert 8 < place.limit < 20  # one a round, no longer twice as many


def test_a_prompt_that_is_too_long_is_shortened_by_the_alttext_alone() -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        if len(asked.text) > 250:
            return error(400, "This model's maximum context length is 250 tokens.")
        return completion(asked.text.split("Description: ")[1])

    with Server(answer) as server:
        llm = ServedLlm(settings(server.url), load_prompt("fuse"), 512)
        long, hopeless = llm.fuse([(("x " * 250, "a cat"), GREEDY), (("x", "cat " * 100), GREEDY)])
    assert long.text == "a cat"
    assert hopeless.problem == "prompt_too_long"


# A server that refuses a row, and one that refuses them all.

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
def test_a_row_that_is_refused_keeps_the_reason_and_the_others_their_texts(kind: str) -> None:
    status, body, problem = ROWS[kind]
    with Server(refusing({"thing 2": (status, body)})) as server:
        texts = fuse(settings(server.url, requests=1), 5)
    assert [text.problem for text in texts] == [None, None, problem, None, None]
    assert str(status) in texts[2].said
    assert len(server.asked) <= 5 + 1  # a test request; the row is not asked again


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_that_is_refused_first_and_alone_is_told_from_a_job_that_is(kind: str) -> None:
    status, body, problem = ROWS[kind]
    with Server(refusing({"thing 0": (status, body)})) as server:
        model = settings(server.url, max_new_tokens=7)
        assert [text.problem for text in fuse(model)] == [problem]
        row, test = (asked.body for asked in server.asked)
        assert row["messages"] != test["messages"]
        assert row | {"messages": []} == test | {"messages": []}  # the same parameters
    with (
        Server(refusing({"": (status, body)})) as server,
        pytest.raises(VecapError, match=rf"{server.url} refuses the request \({status} .*\); .*a short test") as told,
    ):
        fuse(settings(server.url), 5)
    assert "\n" not in str(told.value)


def test_a_served_vlm_is_tested_with_a_picture_that_is_well(jpeg_of) -> None:
    bad, good = (jpeg_of(Row(f"{number}", "", "a", None, ""), number) for number in range(2))
    with Server(refusing({base64.b64encode(bad.jpeg).decode(): (400, UNKNOWN)})) as server:
        vlm = ServedVlm(settings(server.url), load_prompt("describe"))
        texts = vlm.describe(iter([(bad, GREEDY), (good, GREEDY)]))
    assert [text.problem for text in texts] == ["refused_by_server", None]


def test_a_row_that_always_fails_is_no_fault_of_the_server_though_it_comes_alone() -> None:
    """As in the next try of a shard whose other rows are done."""
    with Server(refusing({"thing 0": (500, {"error": {"message": "oops"}})})) as server:
        assert [text.problem for text in fuse(settings(server.url, max_attempts=1))] == ["server_failed"]


def test_a_server_is_tested_by_itself_where_several_answer() -> None:
    """One of two has another model, and refuses in words of its own: its rows are not blamed."""
    with (
        Server() as well,
        Server(refusing({"": (400, UNKNOWN)})) as ill,
        pytest.raises(VecapError, match=f"{ill.url} refuses the request"),
    ):
        fuse(settings(well.url, ill.url), 10)


JOBS = {
    "key": (401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, "name its key in api_key_env"),
    "url": (404, {"detail": "Not Found"}, "correct the model's name, or its server.urls"),
    "parameter": (
        400,
        {"error": {"message": "'temperature' does not support 0", "code": "unsupported_value"}},
        "correct the setting that sends it: max_new_tokens, temperature, or server.body",
    ),
}


@pytest.mark.parametrize("kind", JOBS)
def test_what_the_job_must_change_is_told_without_a_test_request(kind: str) -> None:
    status, body, hint = JOBS[kind]
    with Server(refusing({"": (status, body)})) as server, pytest.raises(VecapError, match=hint) as told:
        fuse(settings(server.url, requests=1), 3)
    assert "\n" not in str(told.value)
    assert len(server.asked) == 1


def test_max_completion_tokens_is_sent_from_then_on_where_the_server_wants_it() -> None:
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )

    async def answer(asked: Asked) -> web.StreamResponse:
        if "max_tokens" in asked.body:
            return web.json_response({"error": {"message": message, "code": "unsupported_parameter"}}, status=400)
        return await echo(asked)

    with Server(answer) as server:
        model = settings(server.url, requests=1, max_attempts=1, max_new_tokens=7)
        assert [text.problem for text in [*fuse(model, 3), *fuse(model, 2)]] == [None] * 5
    assert [asked.body.get("max_completion_tokens") for asked in server.asked] == [None, *[7] * 5]


# The key.


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
def test_the_key_reaches_the_server_and_nobody_else(status: int, monkeypatch, caplog) -> None:
    """The server repeats the key in everything that it says."""
    monkeypatch.setenv("VECAP_TEST_KEY", CANARY)

    async def answer(asked: Asked) -> web.StreamResponse:
        key = asked.headers["Authorization"]
        return await echo(asked) if status == 200 else error(status, f"{key} is no good", **{"X-Key": key})

    with caplog.at_level(logging.DEBUG), Server(answer) as server:
        model = settings(server.url, max_attempts=2, api_key_env="VECAP_TEST_KEY")
        if status == 200:
            fuse(model)
        else:
            with pytest.raises(VecapError) as told:
                fuse(model)
            assert "[key] is no good" in str(told.value)
            chain = [told.value]
            while chain[-1].__cause__ or (chain[-1].__context__ and not chain[-1].__suppress_context__):
                chain.append(chain[-1].__cause__ or chain[-1].__context__)
            assert CANARY not in repr(chain)
        assert server.asked[0].headers["Authorization"] == f"Bearer {CANARY}"
        assert CANARY not in str(describe_server(model))
    assert CANARY not in caplog.text


def test_a_key_that_is_not_set_or_stands_in_the_settings_is_told(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("VECAP_TEST_KEY", raising=False)
    with pytest.raises(VecapError, match="looked for in VECAP_TEST_KEY, which is not set"):
        fuse(settings("http://127.0.0.1:1/v1", api_key_env="VECAP_TEST_KEY"))
    demo = Path(__file__).parents[2] / "configs" / "demo.yaml"
    served = "rewrite.vlm={backend: openai, model: m, prompt: describe, server: "
    for server in (
        f"{{urls: [http://a.example/v1], api_key_env: {CANARY}}}",
        f"{{urls: ['http://user:{CANARY}@a.example/v1']}}",
        f"{{urls: ['http://a.example/v1?key={CANARY}']}}",
    ):
        with pytest.raises(ConfigError, match=r"rewrite\.vlm\.server") as told:
            load_config(demo, [f"{served}{server}}}"])
        assert CANARY not in str(told.value)


def test_settings_that_contradict_each_other_are_told() -> None:
    for values, message in (
        ({"backend": "openai"}, "give both or neither"),
        ({"server": {"urls": ["http://a.example"]}}, "give both or neither"),
        ({"num_captions": 2}, "raise the temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelConfig.model_validate({"model": "m", "prompt": "fuse"} | values)

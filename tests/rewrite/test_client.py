"""The chat-completions client against a healthy server; settings and the API key."""

import asyncio
import base64
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import web

from tests.rewrite.server import CANARY, ReceivedRequest, Server, completion, echo, error, fuse, settings
from vecap_tasks.config import ModelConfig, load_config
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row
from vecap_tasks.rewrite.backends.sampling_params import GREEDY, Sampling
from vecap_tasks.rewrite.openai_models import ServedVlm, describe_server
from vecap_tasks.rewrite.prompt import load_prompt


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


# Settings and the API key.


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

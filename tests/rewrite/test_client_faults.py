"""Rejected requests of the chat-completions client: faults of a row and of the job."""

import base64
from typing import Any

import pytest
from aiohttp import web

from tests.rewrite.server import ReceivedRequest, Server, echo, fuse, rejecting, settings
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.rewrite.accepted_rows import Row
from vecap_tasks.rewrite.backends.sampling_params import GREEDY
from vecap_tasks.rewrite.openai_models import ServedVlm
from vecap_tasks.rewrite.prompt import load_prompt

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

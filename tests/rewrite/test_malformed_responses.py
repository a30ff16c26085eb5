"""Malformed responses of a server: a retry, or an error with a bounded message, never an exception."""

import json
import time

import pyarrow as pa
import pytest

from vecap_tasks.rewrite.backends.openai_errors import InvalidResponse, Response, ServerError, classify


def response(text, status=200):
    return Response(status, "application/json", None, text)


def completion(content="A cat.", usage=None):
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": usage})


@pytest.mark.parametrize("count", ["1e999", "-1", "1e30", "99999999999", "NaN", '"7"', "[]", "{}", "true", "null"])
def test_implausible_token_counts_are_zero(count):
    text = completion(usage={"completion_tokens": 0}).replace(": 0", f": {count}")
    generated = response(text).completion()
    assert (generated.text, generated.tokens) == ("A cat.", 0)


def test_plausible_token_counts_are_kept():
    generated = response(completion(usage={"completion_tokens": 5, "prompt_tokens": 9.0})).completion()
    assert (generated.tokens, generated.prompt_tokens) == (5, 9)


def test_lone_surrogates_are_replaced_so_that_the_text_can_be_stored():
    generated = response(completion("A \ud83d cat.\udc00")).completion()
    assert generated.text == "A \ufffd cat.\ufffd"
    assert pa.array([generated.text])[0].as_py() == generated.text


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"choices":' * 200_000, completion(5), completion(["x"]), '{"choices":{}}', '{"choices":[[]]}',
    "9" * 5000,
     completion(usage="x"), completion(usage=[1]), '{"choices":[{"message":{}}]}', "", "null"],
)  # fmt: skip
def test_anything_else_is_an_invalid_response(text):
    with pytest.raises(InvalidResponse):
        response(text).completion()


@pytest.mark.parametrize(
    "body",
    [
        {"detail": [{"loc": 5, "msg": "x"}, None, 5, {"loc": None}]}, {"detail": 5}, {"error": None}, {"error": []},
        {"error": [[]]},
        {"error": {"message": {"a": ["b"]}, "code": ["x"], "type": {}}}, {"message": "\ud800", "code": "\ud800"}, [],
        5, None, "x",
    ],
)  # fmt: skip
def test_any_json_is_an_error_with_a_message(body):
    error = response(json.dumps(body), 400).error
    assert isinstance(error, ServerError)
    classify(error)
    str(error).encode()


@pytest.mark.parametrize(
    "text", ["<" * 2_000_000, "[" * 2_000_000, json.dumps({"error": "inputs " * 300_000}), "<a " * 700_000]
)
def test_a_long_error_takes_bounded_time(text):
    started = time.process_time()
    error = response(text, 400).error
    classify(error)
    assert time.process_time() - started < 1
    assert len(str(error)) < 400

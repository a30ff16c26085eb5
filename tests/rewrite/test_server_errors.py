"""Classification of real server errors as faults of one row or of the job."""

import json

import pytest

from vecap_tasks.rewrite.backends.openai_errors import RULES, Fault, ServerError, classify


def vllm(message: str, kind: str = "BadRequestError", code: int = 400) -> dict:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def openai(
    message: str, code: str | None, kind: str | None = "invalid_request_error", param: str | None = None
) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


BODIES = [
    # The prompt is too long.
    (400, vllm("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"), "too_long"),
    (
        400,
        {
            "error": vllm(
                "The decoder prompt (length 5951) is longer than the maximum model length of 4096. Make sure "
                "that `max_model_len` is no smaller than the number of text tokens plus multimodal tokens."
            )
        },
        "too_long",
    ),
    (400, openai("This model's maximum context length is 8192 tokens.", "context_length_exceeded"), "too_long"),
    (
        422,
        {
            "error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2048",
            "error_type": "validation",
        },
        "too_long",
    ),
    (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 `inputs` "
            "tokens and 64 `max_new_tokens`",
            "error_type": "validation",
        },
        "too_long",
    ),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5000,
                "n_ctx": 4096,
            }
        },
        "too_long",
    ),
    (400, vllm("The input (5000 tokens) is longer than the model's context length (4096 tokens)."), "too_long"),
    (413, "<html><h1>413 Request Entity Too Large</h1></html>", "too_long"),
    # The image.
    (400, vllm("absolute aspect ratio must be smaller than 200, got 250.0"), "image"),
    (400, vllm("height:8 or width:640 must be larger than factor:28"), "image"),
    (500, {"error": {"message": "cannot identify image file <_io.BytesIO object at 0x7f>", "code": 500}}, "image"),
    (
        400,
        {"error": {"code": 400, "message": "Failed to load image or audio file", "type": "invalid_request_error"}},
        "image",
    ),
    (
        400,
        openai(
            "You uploaded an unsupported image. Please make sure your image has of one the following formats: "
            "['png', 'jpeg', 'gif', 'webp'].",
            "invalid_image_format",
        ),
        "image",
    ),
    # The content.
    (
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
                "management policy.",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        "content",
    ),
    (400, openai("Your request was rejected as a result of our safety system.", "moderation_blocked"), "content"),
    (
        403,
        {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was flagged"}},
        "content",
    ),
    # The job.
    (401, openai("Incorrect API key provided: sk-1.", "invalid_api_key"), "key"),
    (403, openai("You are not allowed to sample from this model", None), "key"),
    (404, vllm("The model `huge` does not exist.", "NotFoundError", 404), "model"),
    (404, {"error": {"message": "model 'huge' not found, try pulling it first"}}, "model"),
    (404, {"detail": "Not Found"}, "model"),
    (400, {"detail": "Server is pinned to 'tiny'; requested 'huge'."}, "model"),
    (302, "", "model"),
    (
        400,
        openai(
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
            "supported.",
            "unsupported_value",
            param="temperature",
        ),
        "parameter",
    ),
    (
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "seed"],
                    "msg": "Extra inputs are not permitted",
                    "input": {"messages": "the maximum of 5 tokens"},
                }
            ]
        },
        "parameter",
    ),
    (
        400,
        openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.",
            "unsupported_parameter",
            param="max_tokens",
        ),
        "limit_name",
    ),
    # Unknown.
    (400, {"error": {"message": "I do not like this one"}}, "refused"),
    (400, "", "refused"),
    (400, [], "refused"),
    (400, {"error": None}, "refused"),
    (500, {"error": {"message": "the engine took too long"}}, "refused"),  # retried
    (504, "<h1>upstream took too long</h1>", "refused"),
]
FAULTS = {
    "too_long": Fault.PROMPT_TOO_LONG,
    "image": Fault.IMAGE_REFUSED,
    "content": Fault.CONTENT_FILTER,
    "refused": Fault.REFUSED,
}


@pytest.mark.parametrize(("status", "body", "fault"), BODIES)
def test_an_error_is_classified_as_row_or_job_fault(status: int, body: object, fault: str) -> None:
    error = ServerError.parse(status, body if isinstance(body, str) else json.dumps(body))
    assert classify(error) == FAULTS.get(fault, fault)
    assert str(error).startswith(str(status))
    assert "\n" not in str(error)


def test_an_error_message_has_its_code_and_not_the_request() -> None:
    body = openai("Too long", "context_length_exceeded")
    assert str(ServerError.parse(400, json.dumps(body))) == "400 context_length_exceeded: Too long"
    fastapi = {"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "Field required", "input": "my prompt"}]}
    assert str(ServerError.parse(422, json.dumps(fastapi))) == "422 body.model: Field required"
    assert len(str(ServerError.parse(400, "x" * 5000))) < 320


def test_rules_for_server_errors_have_a_pattern() -> None:
    """A rule for status 500 needs a pattern, so that other server errors are retried."""
    assert all(rule.code or rule.message for rule in RULES if 500 in rule.statuses)

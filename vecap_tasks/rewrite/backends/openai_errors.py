"""Server responses: a generated text, or an error classified as the fault of one row or of the job."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, failed

_MAX_MESSAGE_CHARS = 300
_MAX_ERROR_CHARS = 1 << 14  # of one value of an error response
_MAX_TOKENS = (1 << 24) - 1  # of one text; the sum over all attempts of a row is a 32-bit number
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_REQUEST_STATUSES = frozenset({400, 413, 415, 422})
_QUOTA_STATUSES = frozenset({400, 402, 403, 412, 429})
_UNSUPPORTED = "(?:not (?:supported|permitted|allowed)|unsupported|unrecognized|unknown|unexpected|deprecated)"
_INPUT_STATUSES = _REQUEST_STATUSES | {500}  # some servers return 500 for invalid input; patterns must be narrow


class Fault(StrEnum):
    """Why a request failed. The first five are row faults, named as in problem columns; the others are job faults."""

    PROMPT_TOO_LONG = "prompt_too_long"
    IMAGE_REFUSED = "image_refused"
    CONTENT_FILTER = "content_filter"
    REFUSED = "refused_by_server"  # no rule matches
    FAILED = "server_failed"  # no valid response in any attempt
    KEY = "key"
    QUOTA = "quota"  # no credit, or a spending limit is reached
    MODEL = "model"  # unknown model, or a wrong URL
    PARAMETER = "parameter"
    LIMIT_NAME = "limit_name"  # the server requires `max_completion_tokens` instead of `max_tokens`


KNOWN_ROW_FAULTS = frozenset({Fault.PROMPT_TOO_LONG, Fault.IMAGE_REFUSED, Fault.CONTENT_FILTER})
ROW_FAULTS = KNOWN_ROW_FAULTS | {Fault.REFUSED, Fault.FAILED}


@dataclass(frozen=True, slots=True)
class ServerError:
    """A server's error; `code` joins its `code` and `type`, or is ""."""

    status: int
    code: str
    message: str

    @classmethod
    def parse(cls, status: int, text: str) -> ServerError:
        """Parse the body of an error response: OpenAI, FastAPI, TGI or HTML."""
        try:
            body = json.loads(text)
            if isinstance(body, list) and len(body) == 1:  # Gemini
                body = body[0]
            error = body.get("error", body.get("detail", body.get("message", body)))
        except (ValueError, RecursionError, AttributeError):
            return cls(status, "", _one_line(re.sub(r"<[^<>]*>", " ", text[:_MAX_ERROR_CHARS])))
        if isinstance(error, list):  # FastAPI; its items repeat request fields, which are left out
            error = "; ".join(map(_validation_error, error))
        fields = error if isinstance(error, dict) else body
        codes = dict.fromkeys(
            _plain(fields[name]) for name in ("code", "type", "error_type", "status") if fields.get(name)
        )
        codes.pop(str(status), None)
        message = _plain(error.get("message", error) if error is fields else error)
        if "Provider returned error" in message:  # OpenRouter
            message = f"{message}: {_provider_message(status, fields)}"
        return cls(status, _one_line(" ".join(codes)), _one_line(message))

    def __str__(self) -> str:
        code = self.code.split(" ")[0]
        text = self.message if not code or code in self.message else f"{code}: {self.message}"
        return f"{self.status} {text[:_MAX_MESSAGE_CHARS]}".strip()


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches an error with one of `statuses` whose code or message contains a pattern; empty patterns match all."""

    fault: Fault
    family: str
    statuses: frozenset[int]
    code: str = ""
    message: str = ""

    def matches(self, error: ServerError) -> bool:
        if error.status not in self.statuses:
            return False
        if not self.code and not self.message:
            return True
        return any(
            pattern and re.search(pattern, text, re.I)
            for pattern, text in ((self.code, error.code), (self.message, error.message))
        )


RULES = (
    Rule(
        Fault.CONTENT_FILTER,
        "azure",
        _INPUT_STATUSES,
        code="content_filter|ResponsibleAIPolicy",
        message="content management policy|content_filter",
    ),
    Rule(
        Fault.CONTENT_FILTER,
        "openai",
        _INPUT_STATUSES,
        code="content_policy_violation|moderation_blocked",
        message="rejected as a result of our safety system|ContentPolicyViolation",
    ),
    Rule(
        Fault.CONTENT_FILTER,
        "openrouter",
        frozenset({403}),
        code="content_policy_violation",
        message="requires moderation|input was flagged",
    ),
    Rule(
        Fault.CONTENT_FILTER,
        "openai, dashscope",
        _INPUT_STATUSES,
        code="invalid_prompt|data_?inspection_?failed",
        message="flagged as potentially violating our usage policy|data_?inspection_?failed",
    ),
    # A 429 of a rate limit is retried, and can name the billing page too.
    Rule(
        Fault.QUOTA,
        "any",
        _QUOTA_STATUSES,
        code="insufficient_quota|budget_exceeded",
        message=r"insufficient[ _](?:balance|credits?|funds|quota)|credit balance is too low|requires more credits"
        r"|(?:budget|spending limit) has been (?:exceeded|reached)|exceeded ?budget|monthly spending limit",
    ),
    Rule(Fault.QUOTA, "any", frozenset({402})),
    Rule(Fault.KEY, "any", frozenset({401, 403})),
    Rule(
        Fault.KEY,
        "gemini",
        _REQUEST_STATUSES,
        code="API_KEY_INVALID",
        message="API key (?:not valid|expired|is invalid)",
    ),
    Rule(
        Fault.LIMIT_NAME,
        "openai",
        _REQUEST_STATUSES,
        message=r"\buse\b.{0,20}\bmax_completion_tokens|max_completion_tokens\W+(?:instead|is required)"
        rf"|{_UNSUPPORTED}.{{0,60}}\bmax_tokens\b|\bmax_tokens\b.{{0,60}}{_UNSUPPORTED}",
    ),
    Rule(
        Fault.PARAMETER,
        "openai, anthropic",
        _REQUEST_STATUSES,
        message=r"at most \d+ completion tokens|maximum allowed number of output tokens",
    ),
    Rule(Fault.PROMPT_TOO_LONG, "openai", _INPUT_STATUSES, code="context_length_exceeded|string_above_max_length"),
    Rule(Fault.PROMPT_TOO_LONG, "litellm", _INPUT_STATUSES, message="ContextWindowExceeded"),
    Rule(
        Fault.PROMPT_TOO_LONG,
        "vllm",
        _INPUT_STATUSES,
        message="longer than the maximum model length|maximum context length (?:is|of)",
    ),
    Rule(Fault.PROMPT_TOO_LONG, "sglang", _INPUT_STATUSES, message="longer than the model's context length"),
    Rule(
        Fault.PROMPT_TOO_LONG,
        "tgi",
        _INPUT_STATUSES,
        message=r"inputs\W+must have less than \d+ tokens|inputs\W+tokens \+ \W?max_new_tokens\W+must be",
    ),
    Rule(
        Fault.PROMPT_TOO_LONG,
        "llama.cpp",
        _INPUT_STATUSES,
        code="exceed_context_size_error",
        message="exceeds the available context size|input is too large to process",
    ),
    Rule(
        Fault.IMAGE_REFUSED,
        "openai",
        _INPUT_STATUSES,
        code="invalid_image|image_too_large|image_parse_error|sanitizer_server_error",
        message=r"uploaded an unsupported image|not represent a valid image|image (?:size |dimensions? )?exceeds?\b",
    ),
    Rule(
        Fault.IMAGE_REFUSED,
        "pillow",
        _INPUT_STATUSES,
        message="cannot identify image file|image file is truncated|broken (?:data stream|PNG)|decompression bomb",
    ),
    Rule(
        Fault.IMAGE_REFUSED,
        "qwen",
        _INPUT_STATUSES,
        message=r"aspect ratio must be|(?:height|width)\W+\d+ must be larger than factor",
    ),
    Rule(
        Fault.IMAGE_REFUSED,
        "llama.cpp, vllm, tgi, ollama, gemini, bedrock",
        _INPUT_STATUSES,
        message="failed to (?:load|decode|process|read) (?:the )?image|invalid image"
        "|(?:unable to|could not) process (?:input )?image|provided image is not valid|unsupported MIME type"
        r"|image size \d+ bytes exceeds",
    ),
    Rule(
        Fault.PARAMETER,
        "openai",
        _REQUEST_STATUSES,
        code="unsupported_parameter|unsupported_value|unknown_parameter",
        message="unsupported parameter|unrecognized request argument",
    ),
    Rule(
        Fault.PARAMETER,
        "fastapi, transformers",
        _REQUEST_STATUSES,
        code="extra_forbidden",
        message="extra inputs are not permitted|unexpected fields in the request",
    ),
    Rule(
        Fault.MODEL,
        "any",
        _REQUEST_STATUSES,
        code="model_not_found",
        message=r"\bmodel\b.{0,120}(?:does not exist|not found)|invalid model name|server is pinned to"
        "|model identifier is invalid",
    ),
    Rule(
        Fault.MODEL,
        "vllm, llama.cpp",
        _INPUT_STATUSES,
        message=r"at most 0 image|image input is not supported|is not a multimodal model",
    ),
    Rule(Fault.MODEL, "any", frozenset({301, 302, 303, 307, 308, 404, 405})),
    Rule(
        Fault.PROMPT_TOO_LONG,
        "any",
        _REQUEST_STATUSES,
        message=r"context.{0,20}(?:length|limit|size|window)|too long|(?:maximum|max|exceeds?)\b.{0,60}\btokens?\b",
    ),
    Rule(Fault.PROMPT_TOO_LONG, "any", frozenset({413})),
)


def classify(error: ServerError) -> Fault:
    """Return the fault of *error*; REFUSED if no rule matches."""
    return next((rule.fault for rule in RULES if rule.matches(error)), Fault.REFUSED)


def _validation_error(item: Any) -> str:
    if not isinstance(item, dict):
        return _plain(item)
    place = item.get("loc", ())
    where = ".".join(map(_plain, place)) if isinstance(place, list | tuple) else _plain(place)
    return f"{where}: {_plain(item.get('msg'))}"


def _provider_message(status: int, fields: dict[str, Any]) -> str:
    """Return the message of the provider that a router repeats in `metadata.raw`, as JSON or text; "" if none."""
    metadata = fields.get("metadata")
    raw = metadata.get("raw", "") if isinstance(metadata, dict) else ""
    try:
        text = raw if isinstance(raw, str) else json.dumps(raw)
    except RecursionError:
        return ""
    return ServerError.parse(status, text).message


def _plain(value: Any) -> str:
    """Return a JSON value as text of bounded length; "" if it is nested too deeply."""
    try:
        return str(value)[:_MAX_ERROR_CHARS]
    except RecursionError:
        return ""


def _one_line(text: str) -> str:
    """Return *text* on one line, with U+FFFD for lone surrogates, which JSON can escape and no file can store."""
    return " ".join(_SURROGATE.sub("\ufffd", text).split())


class InvalidResponse(Exception):
    """The response is not valid, but a retry of the request can succeed. `unavailable`: there was no connection."""

    def __init__(self, message: str, *, unavailable: bool = False) -> None:
        super().__init__(message)
        self.unavailable = unavailable


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response without the API key in its text. `retry_after` is in seconds, or None."""

    status: int
    content_type: str
    retry_after: float | None
    text: str

    def completion(self) -> GeneratedText:
        """Parse a chat completion. Raises InvalidResponse if the response is not one.

        Token counts, which only reports use, are 0 if missing or not a plausible number.
        """
        if "json" not in self.content_type:
            raise InvalidResponse(f"the response is {self.content_type}, not JSON")
        try:
            body = json.loads(self.text)
            choice = body["choices"][0]
            text = choice["message"]["content"] or ""
            reason, usage = choice.get("finish_reason"), body.get("usage") or {}
            if reason == "content_filter":
                return failed(Fault.CONTENT_FILTER, "finish_reason content_filter")
            tokens, prompt_tokens = _count(usage.get("completion_tokens")), _count(usage.get("prompt_tokens"))
            return GeneratedText(_one_line(text), tokens, reason != "length", prompt_tokens)
        except (ValueError, RecursionError):
            raise InvalidResponse("the response is not valid JSON") from None
        except (KeyError, IndexError, TypeError, AttributeError):
            raise InvalidResponse("the response is JSON but not a chat completion") from None

    @property
    def error(self) -> ServerError:
        """The parsed error of an error response."""
        return ServerError.parse(self.status, self.text)


def _count(value: Any) -> int:
    """Return a number of tokens, 0 if *value* is not one."""
    valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS
    return int(value) if valid else 0

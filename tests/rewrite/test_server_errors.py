"""Classification of real server errors as faults of one row or of the job, and their table in the documentation."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from vecap_tasks.rewrite.backends.openai_client import _RETRYABLE_STATUSES
from vecap_tasks.rewrite.backends.openai_errors import ROW_FAULTS, RULES, Fault, ServerError, classify

# One error response per line: its server family, where its wording was read, the fault, and a part of the body (`says`)
# that the documentation shows. The fault `retry` is an error that is retried.
FILE = Path(__file__).parents[1] / "data" / "rewrite" / "server_errors.jsonl"
ERRORS: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
RETRIED = "retry"
OUTCOMES = {
    **{fault: f"Row: `{fault}`" for fault in ROW_FAULTS},
    Fault.KEY: "Job stops: key",
    Fault.QUOTA: "Job stops: credit or spending limit",
    Fault.MODEL: "Job stops: model or URL",
    Fault.PARAMETER: "Job stops: parameter",
    Fault.LIMIT_NAME: "Sends `max_completion_tokens` instead, then and later",
    RETRIED: "Retried, with fewer requests in flight",
}
UNKNOWN = [
    (400, {"error": {"message": "I do not like this one"}}),
    (400, ""),
    (400, []),
    (400, [{"error": {"message": "one"}}, {"error": {"message": "two"}}]),
    (400, {"error": None}),
    (400, {"error": {"message": "Provided billing address of the page is long"}}),
    (400, {"error": {"message": "Provider returned error", "metadata": {"raw": 1}}}),
    (500, {"error": {"message": "the engine took too long"}}),  # retried
    (504, "<h1>upstream took too long</h1>"),
]


def openai(
    message: str, code: str | None, kind: str | None = "invalid_request_error", param: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def parse(status: int, body: object) -> ServerError:
    return ServerError.parse(status, body if isinstance(body, str) else json.dumps(body))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error['family']}: {error['says']}"[:60])
def test_an_error_is_classified_as_row_or_job_fault(error: dict[str, Any]) -> None:
    parsed = parse(error["status"], error["body"])
    assert str(classify(parsed)) == (Fault.REFUSED if error["fault"] == RETRIED else error["fault"]), parsed
    assert error["fault"] != RETRIED or error["status"] in _RETRYABLE_STATUSES
    assert str(parsed).startswith(str(error["status"]))
    assert "\n" not in str(parsed)


def test_the_errors_cover_many_servers_and_every_fault() -> None:
    assert len({json.dumps(error["body"]) for error in ERRORS}) >= 70
    assert len({error["family"] for error in ERRORS}) >= 20
    assert {error["fault"] for error in ERRORS} >= {*map(str, Fault)} - {Fault.REFUSED, Fault.FAILED}
    assert all(error["source"] and error["says"] in str(error["body"]) for error in ERRORS)


@pytest.mark.parametrize(("status", "body"), UNKNOWN)
def test_an_unknown_error_has_no_known_fault(status: int, body: object) -> None:
    assert classify(parse(status, body)) == Fault.REFUSED


def test_the_documentation_has_a_table_of_the_errors() -> None:
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for error in ERRORS:
        says = rows.setdefault((error["family"], OUTCOMES[error["fault"]]), {})
        says[error["says"].replace("`", "")] = None
    lines = [f"| {family} | {'; '.join(says)} | {outcome} |" for (family, outcome), says in sorted(rows.items())]
    page = (REPOSITORY / "docs" / "captioning.md").read_text(encoding="utf-8")
    assert "\n".join(["| Server | Error message | What happens |", "| --- | --- | --- |", *lines]) in page


def test_an_error_message_has_its_code_and_not_the_request() -> None:
    body = openai("Too long", "context_length_exceeded")
    assert str(ServerError.parse(400, json.dumps(body))) == "400 context_length_exceeded: Too long"
    fastapi = {"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "Field required", "input": "my prompt"}]}
    assert str(ServerError.parse(422, json.dumps(fastapi))) == "422 body.model: Field required"
    assert len(str(ServerError.parse(400, "x" * 5000))) < 320


def test_rules_for_server_errors_have_a_pattern() -> None:
    """A rule for status 500 needs a pattern, so that other server errors are retried."""
    assert all(rule.code or rule.message for rule in RULES if 500 in rule.statuses)

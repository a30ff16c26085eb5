"""What a chat-completions server answered, read: the text, or what it says is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from vecap_tasks.rewrite.draw import Written, failed

_TOO_LONG = re.compile(
    r"context.{0,20}(?:length|size|window)|too long|(?:maximum|max|exceed)\b.{0,60}\btokens?\b", re.I
)


class Unusable(Exception):
    """What came back is no use, though the same request may be answered in another try."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came, its text without the key. `retry_after` is in seconds, None where nothing is asked for."""

    status: int
    content_type: str
    retry_after: float | None
    text: str

    def completion(self) -> Written:
        """Read a chat completion. Raises Unusable for what is none."""
        if "json" not in self.content_type:
            raise Unusable(f"the answer is {self.content_type}, not JSON")
        try:
            body = json.loads(self.text)
            choice = body["choices"][0]
            text = choice["message"]["content"] or ""
            reason, usage = choice.get("finish_reason"), body.get("usage") or {}
            if reason == "content_filter":
                return failed("content_filter")
            tokens, asked = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
            return Written(" ".join(text.split()), tokens, reason != "length", asked)
        except ValueError:
            raise Unusable("the answer is no whole JSON") from None
        except (KeyError, IndexError, TypeError, AttributeError):
            raise Unusable("the answer is JSON, but no chat completion") from None

    def refusal(self) -> Written | None:
        """Return the row's problem where the server refuses this very prompt, None where it would refuse any."""
        said = self.said()
        if self.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or _TOO_LONG.search(said):
            return failed("prompt_too_long")
        return failed("content_filter") if "content_filter" in said else None

    def said(self) -> str:
        """Return status and message of an answer that is an error, in a line."""
        text = self.text
        try:
            body = json.loads(text)
            error = body.get("error", body.get("detail", body.get("message", body)))
            text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
            if isinstance(error, dict) and error.get("code"):
                text = f"{error['code']}: {text}"
        except (ValueError, AttributeError):
            text = re.sub(r"<[^>]*>", " ", text)
        return f"{self.status} {' '.join(text.split())[:300]}".strip()


def seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None

"""What a chat-completions server answered, read: the text, or its error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from vecap_tasks.rewrite.draw import Written, failed
from vecap_tasks.rewrite.server_errors import Fault, ServerError


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
                return failed(Fault.CONTENT_FILTER, "finish_reason content_filter")
            tokens, asked = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
            return Written(" ".join(text.split()), tokens, reason != "length", asked)
        except ValueError:
            raise Unusable("the answer is no whole JSON") from None
        except (KeyError, IndexError, TypeError, AttributeError):
            raise Unusable("the answer is JSON, but no chat completion") from None

    @property
    def error(self) -> ServerError:
        """An answer that is an error, read."""
        return ServerError.of(self.status, self.text)


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

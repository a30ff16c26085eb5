"""Why a page or an image could not be had: a short reason that stays the same from run to run, and a detail."""

from __future__ import annotations


class Failure(Exception):
    """One download or one image failed. `reason` is an identifier to count by, `detail` is for people.

    Failures that may pass are `temporary`; `retry_after` is what the server asked for, in seconds.
    """

    def __init__(
        self, reason: str, detail: str = "", *, temporary: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.temporary = temporary
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """`reason`, or `reason: detail`, as it stands in the column `error_message`."""
        return str(self)

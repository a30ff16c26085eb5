"""Error messages, and the wait that a Retry-After header requests."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from vecap_tasks.errors import VecapError, format_error, retry_after_seconds

DAY = 86_400


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        (" 120 ", 120),
        ("0.5", 0.5),
        ("100000", DAY),
        ("9" * 400, DAY),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Tue, 99 Foo 2030 00:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


def test_a_retry_after_date_is_relative_to_now() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < retry_after_seconds(date) <= 60


def test_a_message_that_quotes_its_input_stays_one_short_line() -> None:
    for error in (ValueError("bad value " + "x\n" * 300_000), VecapError("y" * 300_000)):
        message = format_error(error)
        assert "\n" not in message
        assert len(message) < 2_100

"""What went wrong with a request, named, and what an answer's header asks for."""

from __future__ import annotations

import errno
import socket
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from vecap_tasks.crawl.failure import Failure

_DAY = 86_400.0
_ERRNO = {
    errno.EACCES: "forbidden_address",  # as the guard has it
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.ETIMEDOUT: "timeout",
}


def named(error: aiohttp.ClientError | OSError) -> Failure:
    """Name what went wrong; an OSError that aiohttp lets through is the connection's."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return Failure("dns", temporary=error.os_error.errno == socket.EAI_AGAIN)
        case aiohttp.ClientSSLError():
            return Failure("tls")
        case aiohttp.ClientConnectorError():
            reason = _ERRNO.get(error.os_error.errno or 0, "unreachable")
            return Failure(reason, temporary=reason != "forbidden_address")
        case aiohttp.ClientPayloadError():
            return Failure("incomplete", temporary=True)
        case aiohttp.InvalidURL():
            return Failure("bad_url")
        case aiohttp.ClientConnectionError():
            return Failure("connection_reset", temporary=True)
        case TimeoutError():
            return Failure("timeout")
        case OSError():
            return Failure(_ERRNO.get(error.errno or 0, "connection_reset"), temporary=True)
        case _:
            return Failure("bad_response")


def seconds(retry_after: str | None) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or as a date (RFC 9110, 10.2.3), at most a day."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return min(float(retry_after), _DAY)
    try:
        until = parsedate_to_datetime(retry_after)
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), _DAY)
    except (ValueError, OverflowError):
        return None

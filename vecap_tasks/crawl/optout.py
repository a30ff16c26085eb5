"""Opt-outs from machine use that a server or a page states: X-Robots-Tag, <meta name="robots">, TDM-Reservation.

A value is a list of rules; `name:` before rules speaks to that robot alone. `unavailable_after: 25 Jun 2030, noai`
holds a rule with a value of its own and then `noai`. The value `tdm-reservation: 1` is that header, or that <meta>,
of the W3C's TDM Reservation Protocol: the right to mine is reserved.
"""

from __future__ import annotations

from collections.abc import Iterable

TDM = "tdm-reservation"

_NO = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def opted_out(values: Iterable[str], product: str, *, listing: bool = False) -> str | None:
    """Return the first rule of *values* that forbids our use, else None. *product* is our name in robots.txt.

    `noindex` of a *listing*, such as a sitemap, keeps the list itself out of an index, and not what it lists.
    """
    forbidding = _NO - {"noindex"} if listing else _NO
    for value in values:
        applies = True
        for part in value.split(","):
            rule = part.strip().lower()
            name, colon, rest = (word.strip() for word in rule.partition(":"))
            if colon and name in _VALUED:
                continue
            if name == TDM:
                if rest == "1":
                    return TDM
                continue
            if colon and " " not in name:
                applies = name == product.lower()
                rule = rest
            if applies and rule in forbidding:
                return rule
    return None

"""robots.txt (RFC 9309) and machine-use opt-outs."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from vecap_tasks.crawl.http.path_rules import PathRules, path_of
from vecap_tasks.errors import Failure

TDM = "tdm-reservation"  # TDM Reservation Protocol, W3C community group
# Content-Usage: AI preferences of the IETF (draft-ietf-aipref-attach, draft-ietf-aipref-vocab).
# Content-Signal: contentsignals.org, by Cloudflare.
PREFERENCES = frozenset({"content-usage", "content-signal"})
OPT_OUT_FIELDS = ("x-robots-tag", TDM, *sorted(PREFERENCES))  # header fields

_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
_RULES_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_TRAINING = ("train-ai", "ai-train", "train-genai")  # categories of use
_ANY_USE = "bots"  # automated processing, of which training is a part
_DENIED, _GRANTED = frozenset({"n", "no"}), frozenset({"y", "yes"})
_MAX_VALUE_CHARS = 16_384  # of the values of one page or response, plus 16 for each value
MAX_BYTES = 500 * 1024  # RFC 9309, section 2.5: minimum to parse
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_TOKEN = re.compile(r"[A-Za-z_-]+")
_AGENT = re.compile(rb"[A-Za-z_-]+")
_NUMBER = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


def opted_out(values: Iterable[str], product: str, *, listing: bool = False) -> str | None:
    """Return the first rule of *values* that forbids our use, or None. *product* is our name in robots.txt.

    *values* are those of X-Robots-Tag, and `name: value` of other header fields. `noindex` on a *listing*, such as a
    sitemap, applies to the list itself, not to the pages it lists. Only the first 16,384 characters count.
    """
    forbidding = _OPT_OUTS - {"noindex"} if listing else _OPT_OUTS
    chars_left = _MAX_VALUE_CHARS
    for value in values:
        if chars_left <= 0:
            break
        value = value[:chars_left]
        chars_left -= len(value) + 16
        field_name, _, preferences = value.partition(":")
        if (field_name := field_name.strip().lower()) in PREFERENCES:
            if training_denied(preferences):
                return field_name
            continue
        applies = True
        for part in value.split(","):
            rule = part.strip().lower()
            name, colon, rest = (word.strip() for word in rule.partition(":"))
            if colon and name in _RULES_WITH_VALUE:
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


def training_denied(preferences: str) -> bool | None:
    """Return whether the value of Content-Usage or Content-Signal denies training, None if it does not say.

    The value is a list of `category=y|n` or `category=yes|no`, with optional parameters. A denial overrides a grant;
    `bots` counts only if no category of training is present.
    """
    stated: dict[str, bool] = {}
    for item in preferences.split(","):
        name, _, value = item.partition("=")
        name, value = name.strip().lower(), value.partition(";")[0].strip(" \t\"'").lower()
        if value in _DENIED:
            stated[name] = True
        elif value in _GRANTED:
            stated.setdefault(name, False)
    training = [stated[name] for name in _TRAINING if name in stated]
    return any(training) if training else stated.get(_ANY_USE)


@dataclass(frozen=True, slots=True)
class Robots:
    """The rules for one robot on one host; *delay* is its Crawl-delay in seconds."""

    rules: PathRules = field(default_factory=PathRules)  # True: allowed
    usage: PathRules = field(default_factory=PathRules)  # True: may not be used for training
    delay: float | None = None

    def allows(self, url: str) -> bool:
        """Return whether *url* may be fetched. Raises Failure `robots` if the comparison costs too much."""
        if not self.rules:
            return True
        path = path_of(url)
        return path == b"/robots.txt" or self.rules.decide(path) is not False

    def reserves(self, url: str) -> bool:
        """Return whether *url* may not be used for training. Raises Failure as `allows` does."""
        return bool(self.usage) and self.usage.decide(path_of(url)) is True


ALLOW_ALL = Robots()


def product_token(user_agent: str) -> str:
    """Return our product token for robots.txt: the leading letters, `_` and `-` of the user agent, lowercase."""
    match = _TOKEN.match(user_agent)
    return match[0].lower() if match else "*"


@dataclass(slots=True)
class _Group:
    """The rules of all groups for one robot, as written."""

    rules: list[tuple[bool, bytes]] = field(default_factory=list)
    usage: list[tuple[bool, bytes]] = field(default_factory=list)
    delay: float | None = None

    def add(self, name: str, value: bytes) -> None:
        if name in ("allow", "disallow"):
            if value:
                self.rules.append((name == "allow", value))
        elif name in PREFERENCES:
            pattern, preferences = b"/", value
            if value[:1] in (b"/", b"*"):
                pattern, _, preferences = value.replace(b"\t", b" ").partition(b" ")
            denied = training_denied(preferences.decode("utf-8", "replace"))
            if denied is not None:
                self.usage.append((denied, pattern))
        elif name == "crawl-delay" and _NUMBER.fullmatch(value):
            self.delay = max(self.delay or 0.0, float(value))


_RULES = PREFERENCES | {"allow", "disallow"}  # lines after which a user-agent line starts a new group


def parse_robots(body: bytes, product: str) -> Robots:
    """Return the rules for *product* in a robots.txt: of its own groups, otherwise of the groups for `*`.

    Crawl-delay is not part of RFC 9309; the longest applies. Content-Usage and Content-Signal are rules of their group,
    for a path or for the whole host; before the first group they apply to all robots.
    """
    own, general = _Group(), _Group()
    has_group = False
    agents: set[str] | None = None  # of the current group
    has_rules = True  # the group has rules; the next user-agent line starts a new group
    for line in _text(body).splitlines():
        label, colon, value = line.partition(b"#")[0].partition(b":")
        name, value = label.strip().lower().decode("latin-1"), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            if has_rules or agents is None:
                agents, has_rules = set(), False
            token = _AGENT.match(value)
            agents.add("*" if value.startswith(b"*") else token[0].decode().lower() if token else "")
            has_group = has_group or product in agents
            continue
        if agents is None:
            if name not in PREFERENCES:
                continue
            groups = [own, general]
        else:
            has_rules = has_rules or name in _RULES
            groups = [group for group, agent in ((own, product), (general, "*")) if agent in agents]
        for group in groups:
            group.add(name, value)
    chosen = own if has_group else general
    return Robots(PathRules(chosen.rules), PathRules(chosen.usage), chosen.delay)


def _text(body: bytes) -> bytes:
    """Return the lines of *body* that count, without a byte order mark. Rules may have bytes that are not UTF-8."""
    if len(body) > MAX_BYTES:
        body = body[: body.rfind(b"\n", 0, MAX_BYTES) + 1]  # half a rule may mean something else
    for mark, codec in _BOMS:
        if body.startswith(mark):
            text = body[len(mark) :]
            return text if codec == "utf-8" else text.decode(codec, "replace").encode("utf-8", "replace")
    return body


@dataclass(frozen=True, slots=True)
class RobotsPolicy:
    """The policy of one host: *robots* rules, paths that *tdm* reserves, or the failure that forbids all URLs."""

    robots: Robots = ALLOW_ALL
    tdm: Robots = ALLOW_ALL
    forbidden: Failure | None = None

    def check(self, url: str, *, listing: bool = False) -> None:
        """Raise Failure if *url* may not be fetched: `robots`, `opt_out`, or the reason robots.txt is unreadable.

        Preferences of robots.txt do not apply to a *listing*, such as a sitemap, but to the pages it lists.
        """
        if self.forbidden is not None:
            raise Failure(self.forbidden.reason, self.forbidden.detail)
        if not self.robots.allows(url):
            raise Failure("robots")
        if not listing and self.robots.reserves(url):
            raise Failure("opt_out", "robots.txt")
        if not self.tdm.allows(url):
            raise Failure("opt_out", "tdmrep.json")

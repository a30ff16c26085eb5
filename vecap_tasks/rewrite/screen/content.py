"""Rules for unwanted content: markup, control characters, URLs and private data."""

from __future__ import annotations

import re

from vecap_tasks.core.private_data import has_private_data
from vecap_tasks.core.word_lists import read_table
from vecap_tasks.rewrite.screen.text import DATA, Answer, one_of

_TAGS = (
    r"a|abbr|b|big|blockquote|body|br|button|caption|center|code|div|em|figcaption|figure|font|form|h[1-6]|head|hr|html|i"
    r"|iframe|img|image|input|ins|label|li|link|meta|nav|ol|option|p|pre|s|script|section|small|span|strike|strong|style"
    r"|sub|sup|svg|table|tbody|td|th|title|tr|u|ul|video|bos|eos|pad|unk|think|answer|alttext|alt_text|description|vec"
    r"|tool_call"
)
_MARKUP = one_of(
    # HTML, and tokens of chat formats that look like it
    rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|</\w+>|<\w+ [\w-]+=[^<>]*>|<[a-z]+_?\d{{2,}}>|<!--|<[|｜][^<>]*?[|｜]>",
    r"<(?:start|end)_of_\w+>|<</?SYS>>",
    r"&(?:amp|lt|gt|quot|apos|nbsp|copy|reg|trade|hellip|[mn]dash|[lr][sd]quo|[a-z]{1,2}(?:acute|grave|uml|circ|tilde)"
    r"|#\d+|#x[0-9a-f]+);",
    # forum and chat markup
    r"\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|b|i|u|img|url|quote|caption)(?:=[^\]]*)?\]|#{3,}\s*\w",
    r"(?:^|\s)(?-i:USER|ASSISTANT|SYSTEM|HUMAN):\s|^\s*(?:assistant|user|system):\s",
    # Markdown
    r"```|\s#{3,}\s*$|^\s*>\s+\w|^\s*\[\s*'[^']*'\s*[,\]]|!?\[[^\]]*\]\([^)]*\)|\*\*[^*\s][^*]*\*\*|(?<!\w)__[^_\s][^_]*__(?!\w)|^\s*#{1,6}\s+(?!\d)",
    r"^\s*\|[^|]*\|[^|]*\||\|\s*:?-{2,}:?\s*\||^\s*1[.)]\s.*\s2[.)]\s|^\s*[-*•]\s.*\s[-*•]\s",
    r"~~[^~\s][^~]*~~|'''[^'\s][^']*'''|^\s*`[^`]+`\s*$|`[^`\s]+`\s*\{",
    r"\[(?:caption|gallery|embed) \w+=|\[(?:PAD|CLS|SEP|MASK|UNK|BOS|EOS)\]|<0x[0-9a-f]{2}>",
    # LaTeX: commands with braces, math with an operator
    r"\\(?:[a-z]+\*?(?:\[[^\]]*\])?\{|(?:alpha|beta|times|cdot|sqrt|infty|pm|leq|geq|item)\b|[()\[\]]\s*\w)",
    r"[\^_]\{[^{}]{0,40}\}|\$\$[^$]+\$\$|\$\\?[a-z][^$]{0,60}[\^_\\=][^$]{0,60}\$|\w\$[_^]",
    # JSON and escapes
    r"^\s*\{\s*[\"']?\w[^\"':]*[\"']?\s*:|^\s*\[\s*\"|^\s*[\"']\w+[\"']\s*:\s*[\"'\[{]|(?<!:)\\[nt](?![a-z])|\\u[0-9a-f]{4}",
    # code
    r"^\s*(?-i:SELECT\s.{1,200}\sFROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\s"
    r"|\b(?:console\.log|print|printf|echo)\([\"']|=>\s*\{|\);\s*$"
    r"|^\s*(?:def|function|class) \w+\s?\(|^\s*for \w+ in \w+\(|^\s*print\(|^\s*(?:import|from) \w+ import\b"
    r"|^\s*(?:return|const|let|var) [\w\"'][^;]*;|^\s*(?:const |let |var )?[a-z_]\w*\s*=\s*[\"'][^\"']*[\"']"
    r"|^\s*[\w.#-]+\s*\{\s*[\w-]+\s*:[^{}]*\}|^\s*</?\?(?:php|xml)",
    # unfilled placeholders
    r"\[(?:insert|your|name|brand|location|city|date|person|company|artist|product|object)\b[^\]\d]*\]",
    r"\{\{?\w[\w.|]*(?: [\w.|]+){0,4}\}?\}",
    # templates of web frameworks and wikis
    r"\{\{[^{}]{1,200}\}\}|\{%[^%]{0,200}%\}|<%[^%]{0,200}%>|\[\[[^\[\]]{1,200}\]\]|^\s*\.\. \w+:: |\$\{[^{}]{1,80}\}",
    r"\[(?:colou?r|title|year|place|country|number|breed|animal|item|model|type|size|material|adjective|noun|event|subject"
    r"|description|style|age|gender|species|price|author|photographer)(?: (?:name|here))?\]",
    r"<(?:your|insert|the)? ?(?-i:[A-Z][A-Z ]+|[a-z]+_[a-z_]+)>|<(?:location|name|city|place|brand|color|date|person"
    r"|object|animal|subject|product|title|number|event|company|artist|year)>|%(?-i:[A-Z]{3,}(?:_[A-Z]+)*)%|\s%[sd](?=\s|$|[.,!?\"'])",
)
_MARKUP_CHARACTERS = frozenset("<&[#:`*_\\{2-~$%=;|(")  # ASCII markup contains at least one
# C0 and C1 controls, zero width, bidi overrides, tags, private use, and replacement characters.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\uffff"
    r"\ue000-\uf8ff\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)

_TOP_LEVEL = {kind: "|".join(names.split()) for kind, names in read_table(DATA, "domains").items()}
_LABELS = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,8}"
_DOMAIN = rf"{_LABELS}(?:{_TOP_LEVEL['strong']}|co\.[a-z]{{2}}|(?:com|org|example)\.[a-z]{{2}})"
_URL = one_of(
    r"\b[a-z][a-z0-9+-]{1,20}://|\bfile:///|\bmailto:\w|\bwww\.\s?[\w-]+\s?\.\w",
    # written to avoid links
    r"\w\[\.\]\w|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?/\w"
    r"|\bh ?t ?t ?p ?s? ?: ?/ ?/|\bcolon slash slash\b|\bwww dot \w|\blink in (?:the |my |our )?bio\b",
)
_PATH = one_of(
    rf"(?<![\w.]){_DOMAIN}/[\w?#~-]|(?<![\w.]){_LABELS}(?:{_TOP_LEVEL['weak']})/[\w?#~-]",
    r"\b(?:bit\.ly|t\.co|goo\.gl|youtu\.be|tinyurl\.com|fb\.me|instagr\.am)/\w",
)
_SITE = one_of(rf"(?<![\w@.-]){_DOMAIN}\b(?![\w@-])")
_WEAK_SITE = re.compile(rf"(?<![\w@.-])[a-z0-9][a-z0-9-]{{3,62}}\.(?:{_TOP_LEVEL['weak']})(?![\w@.-]*\w)")
# A domain that names a shop, brand or displayed page: "the booking.com logo".
_BRAND_AFTER = one_of(
    r"^['’]?s?\W{0,2}\s*(?:logo|website|web site|site|homepage|home page|app|brand|stadium|arena|sign|screenshot|page"
    r"|store|shop|box|banner|ad|advertisement|commercial|building|headquarters|warehouse|package|packaging|tour|cup"
    r"|open|classic|team|bubble|era|crash)\b"
)
_BRAND_BEFORE = one_of(
    r"\b(?:logo|website|homepage|home page|page|brand|screenshot|banner|app|sign|ad|advertisement|icon)\W+"
    r"(?:(?:of|for|from|by|reading|that reads|called) )?(?:the )?$"
)
_LINK_CUE = one_of(
    r"(?:\b(?:visit|at|from|via|on|by|see|go to|online|available|credits?|courtesy of|source|address|website|site"
    r"|url|link|more|buy|shop|click|order"
    r"|check out)|©|\(c\))\W*$"
)


def markup(answer: Answer) -> str | None:
    """Reject tags, entities, Markdown, JSON, chat tokens, unfilled placeholders and control characters.

    >>> markup(Answer("<b>A cat</b> on a mat"))
    'markup'
    >>> markup(Answer("**A cat** &amp; a mat"))
    'markup'
    >>> markup(Answer("A photo of [Name] at the beach"))
    'markup'
    >>> markup(Answer(r"\\textbf{A cat} on a mat of size $x^2$"))
    'markup'
    >>> markup(Answer("I <3 NY, AT&T tower; a < b and c > d; f**k cancer; [sic]; #1 Dad; 4* hotel"))
    """
    text = answer.text
    if text.isascii() and text.isprintable() and _MARKUP_CHARACTERS.isdisjoint(text) and "'''" not in text:
        return None
    return "markup" if _CONTROL.search(text) or _MARKUP.search(text) else None


def url(answer: Answer) -> str | None:
    """Reject URLs, but keep domains used as the name of a shop or site.

    >>> url(Answer("A cat on a mat, see www.example.com"))
    'url'
    >>> url(Answer("A red dress, available at shop.example.com"))
    'url'
    >>> url(Answer("Two alpacas behind a fence, alpaca-farm.ch"))
    'url'
    >>> url(Answer("An Amazon.com box on a porch"))
    >>> url(Answer("The booking.com logo, Node.js and St.Louis"))
    """
    text = answer.text
    if all(part not in text for part in (".", "/", " dot ", "mailto:", " bio")):
        return None
    if _URL.search(text) or ("/" in text and _PATH.search(text)):
        return "url"
    for site in _SITE.finditer(text):
        if not _is_brand(text, site) and (_LINK_CUE.search(text[: site.start()]) or not site.group()[0].isupper()):
            return "url"
    for site in _WEAK_SITE.finditer(text):
        last = not any(map(str.isalnum, text[site.end() :]))
        if not _is_brand(text, site) and (last or _LINK_CUE.search(text[: site.start()])):
            return "url"
    return None


def _is_brand(text: str, site: re.Match[str]) -> bool:
    """Return whether the words around *site* make it the name of a shop or a displayed page."""
    before, after = text[: site.start()], text[site.end() :]
    if _BRAND_AFTER.search(after):
        return True
    return bool(_BRAND_BEFORE.search(before)) and not (_LINK_CUE.search(before) and site.group().islower())


def private_data(answer: Answer) -> str | None:
    """Reject email addresses, telephone numbers, and numbers of accounts and identity documents.

    >>> private_data(Answer("Contact Jane at jane.roe@example.com"))
    'private_data'
    >>> private_data(Answer("A van with (555) 123-4567 on its side"))
    'private_data'
    >>> private_data(Answer("Call 020 7946 0958 for a quote"))
    'private_data'
    >>> private_data(Answer("ISBN 978-0-340-82975-2, 1994-1996, 76 x 127 mm, $10,400, 3-2, Nokia 3310, 655-12SSCY"))
    >>> private_data(Answer("A contact page with an e-mail address and a phone number"))
    """
    return "private_data" if has_private_data(answer.text) else None

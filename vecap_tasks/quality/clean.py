"""AltText as a sentence: entities decoded, markup taken out, white space folded. Written as DuckDB SQL."""

from html.entities import name2codepoint

# Tags, template fields ({{ item.title }}, {% … %}) and shortcodes ([caption id=3]). A lone < or [ is text.
_MARKUP = (
    r"<!--.*?-->|<(?:script|style)[^<>]*>.*?</(?:script|style)>|</?[A-Za-z][^<>]*>|\{\{[^{}]*\}\}|\{%[^%]*%\}"
    r"|\[/?(?:caption|gallery|embed|img|url|b|i|video|audio)(?:[ =][^\]]*)?\]"
)
# Words with a file's ending are words; a name without a space stays as it is, for the rule `file_name` to see.
ENDING = "(?:jpe?g|png|gif|webp|tiff?|bmp|svg|avif|heic|ico|psd|jfif)"
_NAMED_WORDS = rf"(?i)^(?:file:)?(\S.* .*?)\.{ENDING}$"
_SPACE = r"[\s\p{Z}\p{Cc}\x{200B}\x{200E}\x{200F}\x{2060}\x{FEFF}]+"


def literal(text: str) -> str:
    """Return *text* as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def folded(column: str) -> str:
    """Return SQL for *column* with every run of white space and control characters made one space."""
    return f"trim(regexp_replace({column}, {literal(_SPACE)}, ' ', 'g'))"


def cleaned(column: str) -> str:
    """Return SQL for *column* as a sentence; null stays null.

    An HTML parser decodes entities once, so those that are left were escaped twice; they are decoded once more.

    `&lt;b&gt;Beagle&lt;/b&gt; &amp; friends` -> `Beagle & friends`;  `Cat&nbsp;&ndash;&nbsp;Shop` -> `Cat – Shop`
    """
    decoded = f"CASE WHEN contains({column}, '&') THEN {_decoded(column)} ELSE {column} END"
    text = folded(f"nfc_normalize(regexp_replace({decoded}, {literal(_MARKUP)}, ' ', 'gs'))")
    return rf"regexp_replace({text}, {literal(_NAMED_WORDS)}, '\1')"


def _decoded(column: str) -> str:
    named = ", ".join(f"{literal(f'&{name};')}: {literal(chr(code))}" for name, code in sorted(name2codepoint.items()))
    entity = r"&(?:[A-Za-z][A-Za-z0-9]{1,7}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});"
    number = "TRY_CAST(CASE WHEN lower(e[3:3]) = 'x' THEN '0x' || e[4:-2] ELSE e[3:-2] END AS INTEGER)"
    # &amp; last: what it uncovers was text, not an entity. Surrogates and control characters are no characters.
    value = (
        f"CASE WHEN e[2:2] != '#' THEN coalesce(MAP {{{named}}}[e], e)"
        f" WHEN {number} BETWEEN 32 AND 55295 OR {number} BETWEEN 57344 AND 1114111 THEN chr({number}) ELSE ' ' END"
    )
    found = f"list_sort(list_distinct(regexp_extract_all({column}, {literal(entity)})), 'DESC')"
    ordered = f"list_concat(list_filter({found}, lambda e: e != '&amp;'), ['&amp;'])"
    return f"list_reduce({ordered}, lambda text, e: replace(text, e, {value}), {column})"

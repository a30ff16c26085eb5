"""What an assistant says before its answer: "Sure! Here is the rewritten sentence:".

An introduction that ends in a mark of its own says where the caption begins. Taking it away loses nothing, and to
refuse the caption would waste what was paid for: it is stripped, and that is recorded. One that does not end so
("Here is a caption that combines both, a cat …") is refused: no rule can tell where the caption begins.
"""

from __future__ import annotations

from vecap_tasks.rewrite.screen.answer import Answer, one_of, without_quotes

_BEGIN = r"^[\s\"'“*_#]*"
_SURE = r"(?:sure(?: thing)?|certainly|of course|absolutely|understood|no problem)"
_OKAY = r"(?:okay|ok|great|got it|alright)"
_THING = (
    r"(?:captions?|descriptions?|sentences?|versions?|rewrites?|rewording|rephrasing|summary|alt[- ]?text|vecap|output"
    r"|answer|result|response|fusion|paraphrase|option|example|attempt|suggestion|possibility|text)"
)
_KIND = (
    r"(?:the|a|an|your|my|one|new|fused|merged|combined|final|rewritten|revised|refined|improved|single|short|concise"
    r"|possible|image|generated|fluent|suggested|updated|enhanced|detailed|resulting|descriptive|requested|better"
    r"|rephrased|visual|enriched|proposed|natural|corrected|more|and|brief|simple|clear|accurate|informative|coherent)"
)
_LABEL = r"(?:image )?(?:caption|description|answer|output|response|rewrite|vecap)"
_DASH = r" [-–—](?= )"

_STRIPPED = one_of(
    rf"{_BEGIN}(?:{_SURE}(?:[!.]+|,(?= *(?:here|i)\b)|:)\s*|{_OKAY}[!.,:]+\s*(?=here\b))?"
    r"(?:"
    # Here is a concise caption for the image:
    rf"here(?:['’]s| is| are|['’]re| you go| it is)\b(?!,)(?: {_KIND}\b)*(?: {_THING}\b[^:.!?\"“]{{0,80}}?)?"
    rf"(?::|{_DASH})"
    # Based on the two texts, …:
    r"|(?:based on|using|combining|given|from)\b[^:]{0,80}\b(?:descriptions?|information|texts?|captions?|sentences?"
    r"|alt[- ]?text)\b[^:]{0,60}:"
    # The fused caption is:
    rf"|(?:(?:{_KIND} )*{_LABEL}|(?:{_KIND} )+(?:sentence|result))"
    rf"(?: (?:could|would|might|can) be| is| \d+)?(?: as follows)?(?::|{_DASH})"
    r"|(?:the |a )?(?:rewritten|fused|merged|combined|revised|refined|rephrased)(?: (?:version|text|image))?:"
    # A possible caption for this image could be:
    rf"|(?:a |one |the )?(?:\w+ )?{_THING} (?:for|of) (?:this|the) (?:image|picture|photo)(?: \w+)? ?"
    r"(?:(?:could|would|might) be|is)?:"
    # A suitable caption would be:
    rf"|(?:a|one|the|my) (?:\w+ )?{_THING} (?:could|would|might|can) be:"
    # The mark of a role, and of a result
    r"|(?-i:ASSISTANT|Assistant): |result:"
    r")?[\s*_]*"
)
_KEPT_ON = one_of(
    rf"^\W*{_SURE}[!.,]\s+(?:here|i|the|let|this)\b",
    rf"^\W*(?:sure[!,.] )?here(?:['’]s| is| are)(?: {_KIND}\b)+ {_THING}\b",
    rf"^\W*(?:(?:the |a |my )(?:{_KIND} )+|my ){_THING} (?:is|would be|could be|might be|reads)\b",
    r"^\W*i(?:['’]d| would| will|['’]ll| have|['’]ve)? (?:suggest|propose|rewrite|rewrote|rewritten|describe|combined?"
    r"|merged?|fused?|rephrased?|caption)\b",
    r"^\W*i(?:['’]d be| would be|['’]m|['’]ll| am| can| will)? (?:happy to|glad to)? ?help\b",
    rf"^\W*{_SURE}\s*[!:]",
)


def without_preamble(answer: Answer) -> str | None:
    """Return the caption after an introduction that ends in a mark of its own, or None where there is none.

    Quotation marks around all of the rest go too.

    >>> without_preamble(Answer("Sure! Here is the rewritten sentence: A cat on a mat."))
    'A cat on a mat.'
    >>> without_preamble(Answer('Caption: "A cat on a mat."'))
    'A cat on a mat.'
    >>> without_preamble(Answer("Here are two cats: a red one and a white one"))
    >>> without_preamble(Answer("Sure Thing album cover"))
    """
    match = _STRIPPED.match(answer.text)
    if match is None or not match.group().strip(" \"'“*_#") or answer.quotes(match.group()):
        return None
    return without_quotes(answer.text[match.end() :].strip(" *_#")).strip() or None


def preamble(answer: Answer) -> str | None:
    """An introduction that is still there: nothing tells where it ends, or it is all there is.

    >>> preamble(Answer("Here is a caption that combines both texts about a cat."))
    'preamble'
    >>> preamble(Answer("Caption:"))
    'preamble'
    >>> preamble(Answer("Here are two cats"))
    >>> preamble(Answer("Here is where the river bends"))
    >>> preamble(Answer("Certainly not a dog"))
    """
    match = _KEPT_ON.search(answer.text)
    if match is None:
        whole = _STRIPPED.match(answer.text)
        match = whole if whole and whole.group().strip(" \"'“*_#") else None
    return None if match is None or answer.quotes(match.group()) else "preamble"

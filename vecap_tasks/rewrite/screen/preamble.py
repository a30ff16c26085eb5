"""Rules for assistant talk around the caption: preambles such as "Sure! Here is …", and leaks of the prompt."""

from __future__ import annotations

from functools import lru_cache

from vecap_tasks.rewrite.screen.text import Answer, one_of, plain_words, unquoted, without_quotes, words

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

_PREAMBLE = one_of(
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
    # A role or result label
    r"|(?-i:ASSISTANT|Assistant): |result:"
    r")?[\s*_]*"
)
_UNSTRIPPABLE = one_of(
    rf"^\W*{_SURE}[!.,]\s+(?:here|i|the|let|this)\b",
    rf"^\W*(?:sure[!,.] )?here(?:['’]s| is| are)(?: {_KIND}\b)+ {_THING}\b",
    rf"^\W*(?:(?:the |a |my )(?:{_KIND} )+|my ){_THING} (?:is|would be|could be|might be|reads)\b",
    r"^\W*i(?:['’]d| would| will|['’]ll| have|['’]ve)? (?:suggest|propose|rewrite|rewrote|rewritten|describe|combined?"
    r"|merged?|fused?|rephrased?|caption)\b",
    r"^\W*i(?:['’]d be| would be|['’]m|['’]ll| am| can| will)? (?:happy to|glad to)? ?help\b",
    rf"^\W*{_SURE}\s*[!:]",
)

_ALT = r"alt(?:ernative)?[- ]?texts?"
_SOURCE = rf"(?:captions?|descriptions?|sentences?|texts?|{_ALT})"
_GIVEN = (
    r"(?:provided|given|supplied|raw|input|source|merged|combined|fused|rewritten|revised|synthetic|refined|generated"
    r"|original|new|above|previous|accompanying|following|initial|former|latter|image|visual|user['’]?s?)"
)
_NOT_OF = r"\b(?! (?:of|by|in|on|for|from)\b)"  # "the original text of the Magna Carta" can be seen

_TALK = one_of(
    # References to the inputs.
    rf"\b(?:first|second|both|1st|2nd) (?:(?:given|provided|input) )?(?:sentences|sentence(?! was\b){_NOT_OF}"
    rf"|(?:descriptions?|captions?){_NOT_OF})",
    r"\bsentences? (?:[12]|one|two)\b",
    rf"\b(?:the|this|your|both|an?) (?:{_GIVEN} )+(?:{_ALT}|captions?|descriptions?|sentences?){_NOT_OF}"
    r"(?! reads?\b)",
    r"\b(?:the|this|your|both) (?:(?:provided|given|supplied|raw|input|source|synthetic|above|user['’]?s?|original) )+"
    rf"(?:image )?(?:texts?|information|context|details|data|prompt|images?){_NOT_OF}",
    rf"\b(?:the|this|an|your|and|from|in|of) {_ALT}\b",
    rf"\b(?:the|this|your) (?:{_SOURCE}|information|details) (?:provided|given|supplied)\b",
    r"\b(?:the|this) web ?(?:page|site) (?:also )?(?:says|states|mentions|claims|does not)\b",
    r"\b(?:the raw|synthetic) (?:text|captions?|descriptions?)\b"
    r"|\bboth (?:of the )?texts (?:agree|describe|mention|say|speak|refer|talk|tell)\b",
    # Reports of their content.
    r"\b(?:based on|according to|as (?:per|described|mentioned|stated|noted|indicated|specified|suggested)(?: in| by)?"
    r"|(?:mentioned|described|stated|provided|given|specified) (?:in|by))"
    rf" (?:the|this|your|both|these)(?: \w+){{0,2}}? {_SOURCE}\b(?! (?:of|by|in|on)\b)",
    r"\b(?:based on|according to|from|given|using) the (?:information|details?|context) (?:provided|given|available)\b",
    r"\b(?:as|not) (?:described|mentioned|stated|shown|specified|provided|indicated|suggested)"
    rf" (?:in the )?(?:image|picture|caption|description|{_ALT}|above|previously)\b",
    rf"\b(?:the|this|its|image) (?:description|{_ALT}|sentence)s? (?:also )?(?:states?|mentions?|says|describes?|notes?"
    r"|does not|doesn['’]?t|provides?|suggests?|indicates?|specif\w+|implies)\b",
    r"\b(?:the|this|its|image) captions? (?:also )?(?:mentions?|does not|doesn['’]?t|suggests?|indicates?|implies"
    r"|describes?|provides?|specif\w+|notes?)\b",
    r"\b(?:additional|extra|more|specific|contextual) (?:context|information|details?) (?:(?:is|are|was) )?"
    r"(?:provided|given|mentioned|from|found) (?:(?:in|by|from) )?(?:(?:the|both) )?"
    r"(?:caption|description|text|sentence|alt)",
    r"\b(?:first|second) text (?:is|says|states|mentions|describes|speaks)\b",
    # References to the task.
    r"\b(?:this|my|the new|the final) (?:caption|sentence|answer) (?:includes?|combines?|keeps?|merges?|retains?"
    r"|preserves?|mentions?|covers?)\b",
    r"(?:^|[.;:!?(–—-]) *i(?:['’]ve| have)? (?:left out|omitted|removed|kept|added|included|excluded|ignored|avoided"
    r"|dropped) (?:the|all|any)\b",
    r"\b(?:the|this|your) (?:new |final |fused )?captions? (?:should|must|needs? to|has to|ought to)\b",
    r"\b(?:well|better)-?[- ]structured sentences?\b|\breal[- ]world (?:information|knowledge|details?)\b",
    r"\bvisual(?:ly)?[- ](?:enriched )?concepts?\b",
    r"\b(?:i|we)(?:['’]ve| have)? (?:combined|merged|fused|rewritten|rewrote|rephrased|incorporated)"
    r" (?:the|both|all|your|these|it|this)\b",
    r"\b(?:combin|merg|fus|incorporat|integrat|retain|preserv)(?:e|es|ed|ing) (?:(?:the|both|all|all the|key|relevant"
    rf"|original|real-world|detailed|important) )*(?:{_SOURCE}|information|details?|concepts)\b"
    r"(?! (?:of|into|a|panel|book|sign|on)\b)",
    r"\bword (?:count|limit)\b|\(?\b\d+ (?:words|tokens|characters)\)?\W*$",
    # Closing remarks and labels.
    r"\bnote ?: (?:i|the|this|that|in|as|since|please)\b|\b(?:please )?let me know (?:if|whether)\b",
    r"\bi hope (?:this|that|it) (?:helps|meets)\b|\bfeel free to (?:ask|modify|adjust|change|let)\b",
    r"\bis there anything else\b|(?<=[.!?] )(?:caption|answer|output|input) ?:",
    rf"\b(?:{_ALT}|concepts|(?:description|image caption|vecap|vec|fused caption|explanation|reasoning|instruction"
    r"|question)s?) ?:",
)
# Each of these patterns requires one of these words, so most captions skip the patterns.
_TALK_WORD_LIST = """
sentence sentences description descriptions caption captions alt alternative alttext alttexts alternativetext
alternativetexts text texts image images information context detail details data prompt provided given supplied raw
input source synthetic web webpage website described mentioned stated shown specified indicated suggested answer output
i we knowledge concept concepts word words tokens characters note let hope free anything vecap vecaps vec vecs
explanation explanations reasoning reasonings instruction instructions question questions
"""
_TALK_WORDS = frozenset(_TALK_WORD_LIST.split())


def without_preamble(answer: Answer) -> str | None:
    """Return the caption after a preamble with a clear end, or None if there is no such preamble.

    Also removes quotation marks around the whole caption.

    >>> without_preamble(Answer("Sure! Here is the rewritten sentence: A cat on a mat."))
    'A cat on a mat.'
    >>> without_preamble(Answer('Caption: "A cat on a mat."'))
    'A cat on a mat.'
    >>> without_preamble(Answer("Here are two cats: a red one and a white one"))
    >>> without_preamble(Answer("Sure Thing album cover"))
    """
    match = _PREAMBLE.match(answer.text)
    if match is None or not match.group().strip(" \"'“*_#") or answer.quotes(match.group()):
        return None
    return without_quotes(answer.text[match.end() :].strip(" *_#")).strip() or None


def preamble(answer: Answer) -> str | None:
    """Reject a text that still has a preamble: one without a clear end, or one that is the whole text.

    >>> preamble(Answer("Here is a caption that combines both texts about a cat."))
    'preamble'
    >>> preamble(Answer("Caption:"))
    'preamble'
    >>> preamble(Answer("Here are two cats"))
    >>> preamble(Answer("Here is where the river bends"))
    >>> preamble(Answer("Certainly not a dog"))
    """
    match = _UNSTRIPPABLE.search(answer.text)
    if match is None:
        whole = _PREAMBLE.match(answer.text)
        match = whole if whole and whole.group().strip(" \"'“*_#") else None
    return None if match is None or answer.quotes(match.group()) else "preamble"


def prompt_leak(answer: Answer) -> str | None:
    """Reject `leak_words` consecutive words that only the prompt contains, or talk about sources, task or answer.

    >>> prompt_leak(Answer("A cat on a mat, as mentioned in the first sentence."))
    'prompt_leak'
    >>> prompt_leak(Answer("The image, based on the description provided, shows a cat."))
    'prompt_leak'
    >>> prompt_leak(Answer("A cat put in the names of the text", prompt="Then put in the names of the text"))
    'prompt_leak'
    >>> prompt_leak(Answer("A meme of a cat; the caption reads 'Monday'"))
    >>> prompt_leak(Answer("The first sentence of Moby Dick printed on a mug"))
    >>> prompt_leak(Answer("a page with a description in small print"))
    """
    talks = not _TALK_WORDS.isdisjoint(plain_words(answer.text))
    if talks and any(not answer.quotes(match.group()) for match in _TALK.finditer(unquoted(answer.text))):
        return "prompt_leak"
    length = answer.settings.leak_words
    leaked = _ngrams(answer.text, length) & _prompt_ngrams(answer.prompt, length)
    return "prompt_leak" if leaked and leaked - _ngrams(answer.data, length) else None


@lru_cache(maxsize=16)
def _prompt_ngrams(prompt: str, length: int) -> frozenset[tuple[str, ...]]:
    return _ngrams(prompt, length)


def _ngrams(text: str, length: int) -> frozenset[tuple[str, ...]]:
    tokens = words(text)
    return frozenset(tokens[index : index + length] for index in range(len(tokens) - length + 1))

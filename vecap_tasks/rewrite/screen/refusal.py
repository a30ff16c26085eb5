"""Rule for assistant refusals. Signs and titles can contain the same words; see `refusal`."""

from __future__ import annotations

from vecap_tasks.rewrite.screen.text import Answer, one_of, plain_words, unquoted

_START = r"(?:^|(?<=[.!?:] )|(?<=, but )|(?<=however, ))\W*"  # of a sentence, or after "I am sorry, but"
_CANNOT = (
    r"(?:can['’]?t|cannot|can not|could ?n['’]?t|could not|won['’]?t|will not"
    r"|(?:am|was|are|['’]m|['’]re) (?:unable|not able) to)"
)
_WE_CANNOT = rf"{_START}(?:i|we)(?: |(?=['’])){_CANNOT}"
_DO = (
    r"(?:see|view|access|open|load|process|analy[sz]e|interpret|describe|identify|recogni[sz]e|generate|create|provide"
    r"|produce|write|answer|combine|fuse|merge|complete|determine|discern|help|assist|tell|make|display|do|respond"
    r"|browse|verify|confirm|infer|offer|engage|continue)"
)
_PICTURE = r"(?:image|picture|photo|photograph)s?"
_TEXT = r"(?:texts?|captions?|descriptions?|information|context|details?|alt[- ]?text|sentences?)"
_OF_THE_TASK = (
    rf"(?:{_PICTURE}|{_TEXT}|requests?|contents?|people|individuals|persons?|names?|identity|assist|data|answers?"
    r"|with (?:that|this|it|your))"
)

_REFUSAL = one_of(
    # Inability.
    rf"{_WE_CANNOT} (?:\w+ ){{0,2}}?{_DO}\b[^.!?]{{0,60}}\b{_OF_THE_TASK}\b",
    rf"{_START}(?:sorry, )?(?:i|we)(?: do not|(?: am|['’]m) not| don['’]t) (?:feel )?comfortable\b",
    rf"{_START}sorry,? (?:but )?(?:i|we) {_CANNOT} do (?:that|this)\b",
    rf"{_WE_CANNOT} (?:open|access|load) the (?:link|file|url|page|attachment)\b",
    rf"{_WE_CANNOT} find any (?:\w+ ){{0,2}}{_TEXT}\b",
    rf"{_START}there (?:is|are) no {_PICTURE} in (?:your|the|this) (?:message|prompt|request)\b",
    rf"{_WE_CANNOT} (?:assist|comply|fulfil+|help (?:you )?with|do that|answer that|provide|continue"
    r" (?:this|the|our))\b",
    rf"{_START}(?:i|we) (?:must|have to|will have to) (?:respectfully )?(?:decline|refuse)\b",
    rf"{_START}without (?:seeing|access to|having) (?:the|an|any|more) (?:actual )?(?:{_PICTURE}|{_TEXT})\b",
    rf"{_START}unable to {_DO}[^.!?]{{0,40}}\b(?:{_PICTURE}|{_TEXT}|request)\b",
    # Missing abilities.
    rf"{_START}(?:i|we) (?:do not|don['’]?t) (?:currently )?(?:have|possess) (?:(?:any|the|enough|sufficient|direct) )?"
    r"(?:\w+ )?(?:access|abilit(?:y|ies)|capabilit(?:y|ies)|information|context|eyes|personal|visual|details"
    r"|images?)\b",
    rf"{_START}(?:i|we) (?:do not|don['’]?t|did not|didn['’]?t) (?:see|find|receive) (?:any|an|the|your) (?:\w+ )?"
    rf"(?:{_PICTURE}|attachments?|{_TEXT})\b",
    rf"{_START}(?:i|we) see no {_PICTURE}\b",
    r"\bi(?:['’]?d| would)? (?:need|require) (?:to see |more )(?:the )?(?:image|picture|information|context|details)",
    # Missing or insufficient input.
    rf"{_START}(?:it (?:seems|appears|looks like) (?:that )?)?there (?:is|was|are|seems to be|appears to be|does)"
    rf"(?: no|(?:n['’]?t| not) (?:(?:appear|seem) to be )?(?:any|an|enough)) (?:\w+ )?(?:{_PICTURE}|{_TEXT})"
    r"(?: (?:(?:was|is|has been|that (?:was|is)) )?(?:provided|attached|available|given|included|present|here|shown"
    r"|uploaded|visible|for me|to (?:describe|see|caption|fuse|combine))\b|\W*$)",
    rf"{_START}no (?:{_PICTURE}|{_TEXT})(?: \w+)? (?:(?:was|is|has been) )?"
    r"(?:provided|attached|given|uploaded|supplied|included|received)\b",
    rf"{_START}no (?:{_PICTURE}|{_TEXT}) (?:(?:was|is) )?available\W*$",
    rf"{_START}(?:the|this|your) (?:{_PICTURE}|link|file|url|alt[- ]?text|description)"
    r"(?: (?:you|that|link|file|url)(?: \w+){0,3})? (?:(?:is|was|has|does|did)(?:n['’]?t| not)|cannot|could not"
    r"|can['’]?t|couldn['’]?t|failed) (?:to )?(?:be )?(?:been )?(?:provided|available|displayed?|loade?d?|visible"
    r"|accessible|seen|attached|opened|viewed|included|appear|accessed)\b",
    r"\b(?:not enough|insufficient) (?:information|context|details) (?:(?:is|was|provided|given) )*(?:to|in|for)\b",
    # Requests for input.
    rf"{_START}(?:(?:can|could|would|will) you |if you (?:can|could) )?(?:please )?(?:kindly )?"
    r"(?:provide|upload|share|attach|send|give|supply|describe) (?:me |us )?(?:with )?"
    rf"(?:an?|the|more|your|both|some|it|further)(?: \w+){{0,3}}? ?(?:{_PICTURE}|{_TEXT}|url)"
    r"(?:,? (?:so|and|for|to|that|you|first|again|i|we)\b|\W*$)",
    # Self-descriptions and policies.
    r"\bas (?:an? |just an? |merely an? )?(?:large |text[- ]based |generative )?(?:ai|artificial intelligence)"
    r"(?: language)?(?: (?:model|assistant|chatbot|system))?(?:,|,? (?:i\b|it is|my\b|there\b)|\W*$)",
    r"\bas an? (?:ai|artificial intelligence) (?:language model|assistant|chatbot)\b",
    r"\bas an? (?:large |text[- ]based )*(?:language model|llm|text model)\b",
    rf"{_START}i(?:['’]m| am) (?:just |only |merely )?an? (?:(?:ai|artificial intelligence)(?: language)?"
    r" (?:model|assistant|chatbot|system)|ai\b(?=[,. ]+(?:and|so|i|but|which|that)\b|\W*$)|(?:large )?language model)",
    rf"{_START}it(?: is| would be|['’]s) (?:not possible|impossible|not appropriate|inappropriate|difficult|unethical)"
    rf" (?:for me )?to (?:\w+ )?(?:{_DO}|say|give|discuss|caption)\b",
    r"\b(?:against|violates?|in violation of) (?:my|our|openai['’]?s?|the) (?:\w+ )?"
    r"(?:guidelines|polic(?:y|ies)|programming)\b",
)
# Each of these patterns requires one of these words, so most captions skip the patterns.
_REFUSAL_WORD_LIST = """
i we there without unable need require no not t isnt wasnt hasnt doesnt didnt cannot cant couldnt failed enough
insufficient provide upload share attach send give supply describe ai artificial model llm possible impossible
appropriate inappropriate difficult unethical against violate violates violation
"""
_REFUSAL_WORDS = frozenset(_REFUSAL_WORD_LIST.split())
# An apology can be a song title. It is an assistant's only if it continues with the task.
_APOLOGY = one_of(
    rf"{_START}(?:(?:(?:i|we)(?:['’]?m| am|['’]?re| are) (?:\w+ )?(?:sorry|afraid)|sorry|unfortunately|regrettably"
    r"|(?:my |our |please accept my )?apologies|(?:i|we) (?:must )?apologi[sz]e|i regret)\b)"
    r"[^.?!]{0,40}?[,.;:]? ?\b(?:but |that )?(?:i|we|there|as|the|it|this|no|you|your|without|for)\b"
)
_APOLOGY_WORD_LIST = "sorry afraid unfortunately regrettably apologies apologise apologize regret"
_APOLOGY_WORDS = frozenset(_APOLOGY_WORD_LIST.split())
_TASK = one_of(
    rf"\b(?:{_PICTURE}|{_TEXT}|requests?|contents?|assist\w*|provided?|unable|not able|(?:help|assist)(?: you)? with"
    r"|language model|AI|describe|generate|prompt|view|identif\w+|attached|upload\w*|fulfil+|comply|instructions?"
    r"|guidelines|personal)\b"
)


def refusal(answer: Answer) -> str | None:
    """Reject refusals, apologies, requests for the image, and self-descriptions of an assistant.

    They count at the start of a sentence and only about the task. Quoted text and text of the sources do not count.

    >>> refusal(Answer("I'm sorry, but I cannot see the image."))
    'refusal'
    >>> refusal(Answer("As an AI language model, I don't have eyes."))
    'refusal'
    >>> refusal(Answer("There is no image provided."))
    'refusal'
    >>> refusal(Answer("A white shirt that reads Sorry I'm late, I didn't want to come"))
    >>> refusal(Answer("Sorry I'm late, I didn't want to come t-shirt in black"))
    >>> refusal(Answer("I can't keep calm, I'm a teacher mug on a desk"))
    >>> refusal(Answer("As an AI researcher, Jane Roe speaks on a stage"))
    """
    tokens = plain_words(answer.text)
    may_refuse, may_apologize = not _REFUSAL_WORDS.isdisjoint(tokens), not _APOLOGY_WORDS.isdisjoint(tokens)
    if not may_refuse and not may_apologize:
        return None
    text = unquoted(answer.text)
    if may_refuse and any(not answer.quotes(match.group()) for match in _REFUSAL.finditer(text)):
        return "refusal"
    apology = _APOLOGY.search(text) if may_apologize else None
    if apology and _TASK.search(text, apology.start()) and not answer.quotes(apology.group()):
        return "refusal"
    return None

"""Rule for assistant refusals. Signs and titles can contain the same words; see `refusal`."""

from __future__ import annotations

from vecap_tasks.rewrite.screen.talk import is_empty_answer, matches
from vecap_tasks.rewrite.screen.text import Answer


def refusal(answer: Answer) -> str | None:
    """Reject refusals, empty answers, requests for the image, and self-descriptions of an assistant.

    The phrases are in the section `refusal` of `data/talk`. Quoted text and text of the sources do not count.

    >>> refusal(Answer("I'm sorry, but I cannot see the image."))
    'refusal'
    >>> refusal(Answer("As an AI language model, I don't have eyes."))
    'refusal'
    >>> refusal(Answer("There is no image provided."))
    'refusal'
    >>> refusal(Answer("null"))
    'refusal'
    >>> refusal(Answer("A white shirt that reads Sorry I'm late, I didn't want to come"))
    >>> refusal(Answer("Sorry I'm late, I didn't want to come t-shirt in black"))
    >>> refusal(Answer("I can't keep calm, I'm a teacher mug on a desk"))
    >>> refusal(Answer("As an AI researcher, Jane Roe speaks on a stage"))
    """
    return "refusal" if is_empty_answer(answer) or any(matches(answer, "refusal")) else None

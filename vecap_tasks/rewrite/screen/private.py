"""Rule for private data in generated texts."""

from __future__ import annotations

from vecap_tasks.core.private_data import has_private_data
from vecap_tasks.rewrite.screen.text import Answer


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

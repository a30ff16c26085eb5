"""Names that are no news: short forms with what they stand for, and words that are capitalized whatever they name."""

from __future__ import annotations

from vecap_tasks.rewrite.screen.words import DATA
from vecap_tasks.word_lists import read_table, read_words

SPELLED_OUT = {short: frozenset(words.split()) for short, words in read_table(DATA, "spelled_out").items()}
EVERYDAY = read_words(DATA, "everyday")

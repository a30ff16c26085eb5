"""Chat markup is found by how it looks, in any spelling; ordinary text stays."""

import unicodedata

import pytest

from tests.rewrite.conftest import make_tokenizer
from vecap_tasks.rewrite.backends.transformers import control_tokens
from vecap_tasks.rewrite.sanitize import DATA, IGNORABLE, chat_tokens, clean, fold

TOKENS, LABELS = chat_tokens()


def example(token: str) -> str:
    return token.replace("{n}", "7")


def fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


@pytest.mark.parametrize(
    "spell",
    [
        str,
        str.upper,
        fullwidth,
        lambda text: "\ufe0f".join(text),
        lambda text: "\u034f".join(text),
        lambda text: "\u0301".join(text),
        lambda text: text.replace("<", "&lt;").replace("[", "\\u005b"),
        lambda text: text.replace("e", "е").replace("o", "о").replace("a", "а").replace("i", "і"),
    ],
    ids=["plain", "upper case", "fullwidth", "selectors", "grapheme joiners", "accents", "escaped", "Cyrillic"],
)
def test_no_control_token_of_a_known_model_remains(spell) -> None:
    for token in map(example, TOKENS):
        cleaned = clean(f"a cat {spell(token)} and a dog", (), 512)
        assert fold(token) not in fold(cleaned), token
        assert cleaned.startswith("a cat"), token
        assert cleaned.endswith("and a dog"), token


def test_role_labels_lose_their_colon() -> None:
    for label in LABELS:
        for colon in (":", "：", "\ufe13", "\u16ec", " :"):
            assert clean(f"a cat {label}{colon} dog", (), 512) == f"a cat {label} dog", label


def test_the_token_list_names_many_families_once() -> None:
    lines = (DATA / "chat_tokens.txt").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("# ") and lines[number - 1] == "" for number, line in enumerate(lines)) >= 35
    assert len({*TOKENS}) == len(TOKENS) >= 400
    assert len({*LABELS}) == len(LABELS)
    assert [line for line in lines if line != line.strip()] == []


def test_look_alikes_are_single_characters_listed_once() -> None:
    lines = [line for line in (DATA / "confusables.txt").read_text(encoding="utf-8").splitlines() if line[:3] != "// "]
    found = "".join(line[2:] for line in lines)
    assert all(line[0].isascii() and line[1] == " " for line in lines)
    assert len(set(found)) == len(found) >= 600
    assert not [character for character in found if character.isascii()]


def test_no_ignorable_character_remains() -> None:
    text = "".join(f"a{chr(code)}" for code in sorted(IGNORABLE))
    assert clean(text, (), 10_000).strip("a") == ""
    assert {0xAD, 0x34F, 0x180B, 0x200D, 0x3164, 0xFE0F, 0xE0041} <= IGNORABLE


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("❤\ufe0f love", "❤ love"),
        ("日本：東京（2019年）「猫」", "日本：東京（2019年）「猫」"),
        ("a\u200db", "ab"),
        ("क्\u200dष and می\u200cخواهم", "क्\u200dष and می\u200cخواهم"),
        ("x\u200c\u200c\u200cy نمی\u200c\u200c\u200cدانم", "xy نمی\u200cدانم"),
        ("½ ﬁnger №5 …", "½ ﬁnger №5 …"),
        ("x &lt; y &amp;amp; z", "x < y & z"),
        ("C:\\new \\u00e9t\\u00e9", "C:\\new été"),
        ("1 < 2 > 0", "1 < 2 > 0"),
    ],
)
def test_visible_text_is_kept(text: str, kept: str) -> None:
    assert clean(text, (), 512) == kept
    assert clean(kept, (), 512) == kept


def test_folding_covers_compatibility_characters_and_normalization_forms() -> None:
    assert fold("\ufe13\uff1c🅰𝐁Ⓒ㎏…İ") == ":<abckg...i"
    for text in ("Ménagerie", "ガギグ", "한국어", "ệ"):
        assert fold(unicodedata.normalize("NFC", text)) == fold(unicodedata.normalize("NFD", text))


def test_added_tokens_that_look_like_markup_are_control_tokens() -> None:
    tokenizer = make_tokenizer(None)
    tokenizer.add_tokens(["<think>", "[e~[", "photograph"])
    found = control_tokens(tokenizer)
    assert {"<think>", "[e~[", *tokenizer.all_special_tokens} <= {*found}
    assert "photograph" not in found

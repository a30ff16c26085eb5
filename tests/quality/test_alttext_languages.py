"""AltTexts that describe nothing are found in every language, and names with numbers are kept."""

import unicodedata

import pytest

from benchmarks.alttexts import PARTS, problems, read_texts, score
from vecap_tasks.quality.word_lists import all_words, known_words, languages, words_of

LANGUAGES = {"de", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "zh"}
KEPT = [
    "NGC 224", "M 31", "Messier 87", "C-130", "F-16", "Il-76", "Yak-42", "A321", "Fw 190 D-9", "GTX 1080",
    "i7 8700", "R2-D2", "1959 Opel 1700", "VW T1 1967", "747 Jumbo 1970", "校舎（2020年4月）", "梅 2021",
    "숭례문 1907", "МТЗ 82", "Ту-154", "LG", "3M", "BR 50", "2CV 1955 Citroën", "St. 9912 Peter 33221",
]  # fmt: skip
REFUSED = [
    "4006381333931", "2020-05-11 09:12", "11.05.2020", "12. März 2020", "5 mai 2021", "2020年4月11日",
    "2020년 4월 11일", "11 мая 2020", "2021/03/04 10:22:33", "90210 B2", "No. 9912", "Art. 88312", "IMG 20200101",
    "1024x768", "Nr 12345", "第12回 2020年", "100 x 200 cm", "ID 4432 1121",
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_the_rules_reach_their_precision_and_recall_in_every_language(part: str) -> None:
    for result in score(part):
        assert result.precision >= 0.95, (result.language, result.wrong)
        assert result.recall >= 0.9, (result.language, result.missed)


def test_every_language_has_texts_and_lists() -> None:
    assert read_texts("tuned").keys() >= LANGUAGES
    for topic in ("generic", "boilerplate", "dates"):
        assert set(languages(topic)) >= LANGUAGES | {"en"}
        assert all(words_of([topic], language) for language in languages(topic))


def test_words_are_lower_case_runs_of_letters_and_digits() -> None:
    for topic in ("generic", "boilerplate", "dates"):
        words = [word.removeprefix("=") for word in all_words((topic,))]
        assert [word for word in words if word != word.lower()] == []
        assert [word for word in words if {unicodedata.category(c)[0] for c in word} - {*"LMN"}] == []


def test_names_with_numbers_are_kept() -> None:
    assert [(text, problem) for text, problem in zip(KEPT, problems(KEPT), strict=True) if problem] == []


def test_numbers_codes_and_dates_are_refused() -> None:
    assert [text for text, problem in zip(REFUSED, problems(REFUSED), strict=True) if problem is None] == []


def test_words_of_two_languages_do_not_count_together() -> None:
    assert problems(["Sepet warenkorb", "Warenkorb", "Sepet", "Logo Warenkorb", "İLETİŞİM", "Bild 3 / image 4"]) == [
        None, "boilerplate", "boilerplate", "boilerplate", "boilerplate", "generic",
    ]  # fmt: skip


def test_formulas_in_tex_are_markup() -> None:
    texts = ["{\\displaystyle a^{2}+b_{1}}", "\\frac{1}{2}", "A cat \\o/"]
    assert problems(texts) == ["markup", "markup", None]


def test_short_parts_of_words_only_link_others() -> None:
    assert problems(["가수", "번개", "可可", "左右", "홈", "이미지를 찾을 수 없습니다", "次の画像へ"]) == [
        None, None, None, None, "boilerplate", "generic", "generic",
    ]  # fmt: skip


def test_long_words_of_known_parts_take_little_time() -> None:
    assert not known_words(("generic",)).contain(["画像画像" * 200 + "猫"])
    assert not known_words(("generic",)).contain(["画像" * 25 + "猫"])

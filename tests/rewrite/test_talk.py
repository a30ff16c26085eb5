"""Assistant talk is found in every language that has lists, and captions that look similar are kept."""

import logging
import re
from collections import Counter

import pytest

from benchmarks.screening import read_examples
from vecap_tasks.config import ScreenConfig
from vecap_tasks.rewrite.screen import RULES, Answer
from vecap_tasks.rewrite.screen.phrases import read_phrase
from vecap_tasks.rewrite.screen.preamble import without_preamble
from vecap_tasks.rewrite.screen.talk import GROUPS, LISTED, languages_without_lists, masked, talks_of
from vecap_tasks.rewrite.stage import Rewrite

SECTIONS = {"refusal", "empty", "preamble", "closing", "leak"}


def problem(language: str, text: str, **sources: str) -> str | None:
    answer = Answer(text, settings=ScreenConfig(languages=(language,)), **sources)
    return next((name for name in ("refusal", "preamble", "prompt_leak") if RULES[name](answer)), None)


@pytest.mark.parametrize("language", LISTED)
def test_each_language_has_all_sections_and_groups(language: str) -> None:
    talk = next(talk for talk in talks_of((language,)).all if talk.language == language)
    assert set(talk.phrases) == SECTIONS
    assert all(talk.groups[group].words for group in GROUPS)


@pytest.mark.parametrize("language", LISTED)
def test_expressions_are_valid_and_linear(language: str) -> None:
    for talk in talks_of((language,)).all:
        for phrases in talk.phrases.values():
            for phrase in phrases:
                phrase.pattern.search("")
                assert not re.search(r"[+*}]\)(?:[+*]|\{\d*,\})", phrase.expression), phrase.expression


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "I won't speculate about who this is."),
        ("en", "The file seems to be corrupted, so I can't open it."),
        ("en", "None"),
        ("de", "Ohne das Foto zu sehen, kann ich nichts dazu schreiben."),
        ("de", "Keine Angabe"),
        ("fr", "Je n'arrive pas à ouvrir le fichier."),
        ("fr", "Image indisponible"),
        ("es", "No tengo acceso a la foto."),
        ("it", "Mi serve la foto per poterla descrivere."),
        ("pt", "Não consegui abrir o arquivo."),
        ("nl", "De foto is te wazig om iets te herkennen."),
        ("pl", "Nie udało mi się otworzyć pliku."),
        ("ru", "Я не смог открыть файл."),
        ("tr", "Dosyayı açamadım."),
        ("zh", "我打不开这个文件。"),
        ("zh", "暫無說明"),
        ("ja", "ファイルを開けませんでした。"),
        ("ko", "사진이 너무 어두워서 알아볼 수 없어요."),
    ],
)
def test_refusals(language: str, text: str) -> None:
    assert problem(language, text) == "refusal"


@pytest.mark.parametrize(
    ("language", "text", "caption"),
    [
        ("en", "Here's one option: A red kite over a beach.", "A red kite over a beach."),
        ("en", 'Sure! "A red kite over a beach."', "A red kite over a beach."),
        ("de", "Mein Vorschlag lautet: „Ein Drachen über dem Strand“", "Ein Drachen über dem Strand"),
        ("fr", "Voici une légende possible : Un cerf-volant sur la plage.", "Un cerf-volant sur la plage."),
        ("es", "Claro, esta es la leyenda: Una cometa roja.", "Una cometa roja."),
        ("it", "Versione finale: Un aquilone rosso.", "Un aquilone rosso."),
        ("pt", "Claro, aqui vai a frase: Uma pipa vermelha.", "Uma pipa vermelha."),
        ("nl", "Natuurlijk, hier is de zin: Een rode vlieger.", "Een rode vlieger."),
        ("pl", "Jasne, oto zdanie: Czerwony latawiec.", "Czerwony latawiec."),
        ("ru", "Конечно, вот предложение: Красный змей.", "Красный змей."),
        ("tr", "Elbette, işte cümle: Kırmızı bir uçurtma.", "Kırmızı bir uçurtma."),
        ("zh", "最终版本：“海滩上空的红色风筝”", "海滩上空的红色风筝"),
        ("ja", "もちろん、こちらが文章です：浜辺の赤い凧。", "浜辺の赤い凧。"),
        ("ko", "Sure, 최종 캡션입니다: 해변의 빨간 연.", "해변의 빨간 연."),
    ],
)
def test_preambles_with_a_clear_end_are_removed(language: str, text: str, caption: str) -> None:
    assert without_preamble(Answer(text, settings=ScreenConfig(languages=(language,)))) == caption


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Alright, let's write the caption."),
        ("de", "Kein Problem, ich kümmere mich darum."),
        ("fr", "D'accord, je m'en occupe tout de suite."),
        ("es", "Gracias por los detalles."),
        ("it", "D'accordo, mi metto subito al lavoro."),
        ("pt", "Certo, vou começar agora mesmo."),
        ("nl", "Prima, ik ga meteen aan de slag."),
        ("pl", "Dobrze, zabieram się do pracy."),
        ("ru", "Хорошо, сейчас сделаю."),
        ("tr", "Tamam, hemen başlıyorum."),
        ("zh", "好的，我马上开始。"),
        ("ja", "わかりました。すぐに始めます。"),
        ("ko", "알겠습니다. 바로 시작하겠습니다."),
    ],
)
def test_other_preambles_are_rejected(language: str, text: str) -> None:
    configured = ScreenConfig(languages=(language,))
    stripped = without_preamble(Answer(text, settings=configured))
    assert RULES["preamble"](Answer(stripped or text, settings=configured)) == "preamble"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "A red kite. I omitted the price since it is not visible."),
        ("de", "Beide Beschreibungen nennen einen Drachen."),
        ("fr", "Rédige une seule phrase à partir des deux textes."),
        ("es", "Una cometa, según se indica en el texto alternativo."),
        ("it", "Un aquilone sulla spiaggia. Ho tolto il prezzo."),
        ("pt", "As duas descrições falam de uma pipa."),
        ("nl", "Schrijf één zin met de feiten uit beide teksten."),
        ("pl", "Oba opisy wspominają o latawcu."),
        ("ru", "Напиши одно предложение с фактами из двух текстов."),
        ("tr", "Her iki açıklama da uçurtmadan bahsediyor."),
        ("zh", "两段描述都提到了风筝。"),
        ("ja", "浜辺の凧。価格は省略しました。"),
        ("ko", "두 설명 모두 연을 언급합니다."),
    ],
)
def test_leaks(language: str, text: str) -> None:
    assert problem(language, text) == "prompt_leak"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "It is difficult to spot the owl among the branches"),
        ("en", "It is impossible to say where the lake ends and the fog begins"),
        ("en", "None of the boats has a sail"),
        ("en", "The second image shows the same kitchen from another angle"),
        ("de", "Jubel der Spieler nach dem ersten Satz"),
        ("de", "Wanderer zwischen zwei Quellen im Schwarzwald"),
        ("de", "Poster mit dem Spruch „Ich kann das Bild nicht sehen“"),
        ("fr", "Deuxième entrée du musée, rue de Rivoli"),
        ("fr", "Panneau « Désolé, je ne peux pas vous aider »"),
        ("es", "Texto original de la Constitución en una vitrina"),
        ("es", "Coche autónomo desarrollado por Google"),
        ("it", "Due fonti di acqua calda tra le rocce"),
        ("pt", "Ninguém na praça, só pombos"),
        ("nl", "Tweede ingang van het stadion"),
        ("pl", "Oryginalny tekst konstytucji w gablocie"),
        ("ru", "Два источника в горах, над ними пар"),
        ("tr", "Google tarafından düzenlenen konferans salonu"),
        ("zh", "墙上有无法识别的古文字"),
        ("ja", "修正した原稿を机に置く編集者"),
        ("ja", "「画像を表示できません」と書かれた画面"),
        ("ko", "마음에 드는 옷을 고르는 여성"),
    ],
)
def test_similar_captions_are_kept(language: str, text: str) -> None:
    assert problem(language, text) is None
    assert without_preamble(Answer(text, settings=ScreenConfig(languages=(language,)))) is None


def test_the_lists_of_the_configured_languages_and_of_english_apply() -> None:
    german = "Ich kann das Bild nicht sehen."
    assert problem("de", german) == problem("de", "I cannot see the image.") == "refusal"
    assert problem("en", german) is None
    assert RULES["refusal"](Answer(german, settings=ScreenConfig(languages=()))) == "refusal"  # all languages


def test_talk_of_a_source_is_kept() -> None:
    text = "Es tut mir leid, ich kann das Bild nicht sehen"
    assert problem("de", text, alttext=f"{text} – Postkarte") is None


def test_masked_text_has_the_length_of_the_text() -> None:
    for text in ('İşte "Kapı" ve ‘b’', "„Nein“, «non», 「いいえ」", '"whole"', "’"):
        assert len(masked(text)) == len(text)


@pytest.mark.parametrize(
    ("phrase", "words"),
    [("(a | b", "parenthesis"), ("a)", "unexpected"), ("{none} a", "not defined"), ("? ...", "requires no word")],
)
def test_an_invalid_phrase_is_named(phrase: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_phrase(phrase, {})


@pytest.mark.parametrize("language", LISTED)
def test_a_match_always_has_the_keys_of_its_phrase(language: str) -> None:
    talk = next(talk for talk in talks_of((language,)).all if talk.language == language)
    for example in read_examples("tuned", language):
        text = masked(example.answer.text)
        keys = talks_of((language,)).keys(text)
        for phrase in (phrase for found in talk.phrases.values() for phrase in found):
            consulted = language not in ("ja", "ko", "zh") or not text.isascii()
            if example.verdict != "keep" and consulted and phrase.pattern.search(text):
                assert all(not required.isdisjoint(keys) for required in phrase.keys), (text, phrase.expression)


def test_languages_without_lists_are_named() -> None:
    assert languages_without_lists(("en", "sv", "de", "th")) == ("sv", "th")
    assert languages_without_lists(()) == ()


def test_the_stage_warns_once_of_languages_without_lists(sandbox, crawl_row, caplog) -> None:
    config = sandbox.config(screen={"languages": ["en", "sv"]})
    rows = [crawl_row(f"tulip {number}", image=number) for number in range(9)]
    stage = Rewrite(config, sandbox.write_crawl(config, rows))
    caplog.set_level(logging.WARNING)
    for shard in stage.plan():
        stage.run(shard)
    assert Counter(message for message in caplog.messages if "no lists" in message).most_common() == [
        ("rewrite: screening has no lists for sv and finds refusals, preambles, and leaks there only in English", 1)
    ]

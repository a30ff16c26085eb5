"""Fused captions keep the VeC and add no names or numbers, whatever the sources' formats and languages."""

import pytest

from vecap_tasks.config import ScreenConfig
from vecap_tasks.rewrite.screen.grounding import drops_vec, invented
from vecap_tasks.rewrite.screen.text import Answer

KEPT = [
    ("Haus Bremen 210 000 €", "a brick house", "A brick house for 210,000 € in Bremen"),
    ("Haus Bremen 210.000 €", "a brick house", "A brick house for 210 000 € in Bremen"),
    ("used van 45k miles", "a white van", "A white van with 45,000 miles"),
    ("budget 2.5M", "a chart", "A chart of a budget of 2,500,000 dollars"),
    ("img_fair_020614", "a fair", "A fair on June 2, 2014"),
    ("regatta 20190817", "boats on a lake", "Boats on a lake on 17 August 2019"),
    ("flour 0.5 kg", "a bag of flour", "A 500-gram bag of flour"),
    ("model 61 x 5512", "a lamp", "A lamp, model 61x5512"),
    ("rope, twenty-four feet", "a rope", "A rope of 24 feet"),
    ("two SUV on a lot", "two cars", "Two SUVs on a lot"),
    ("rugby ITA v SCO", "a player with a ball", "A player with a ball in the match of Italy against Scotland"),
    ("Acadia Nat'l Park", "a rocky coast", "A rocky coast in Acadia National Park"),
    ("Dept. of Agr. bldg", "a building", "A building of the Department of Agriculture"),
    ("Cambridge Dict German", "a book", "A book, the Cambridge Dictionary for German"),
    ("pupils of Birch Lane Primary", "two boys", "Two boys of Birch Lane Primary School"),
    ("Köln, Rheinufer", "people near a river", "People near the Rhine in Cologne"),
    ("Castillo de Granada, España", "a castle", "A castle in Granada, Spain"),
    ("京都の寺", "a temple", "A temple in Kyoto"),
    ("Москва, Кремль", "red walls and towers", "Red walls and towers of the Kremlin in Moscow"),
    ("amp 12 V, no cable", "an amplifier", "An amplifier of 12 V. Nevertheless, it has no cable"),
    ("Halo on X1 and PS5", "a game cover", "A game cover of Halo for Xbox One and PlayStation 5"),
    ("#VintageRadio", "an old radio", "An old radio, #VintageRadio"),
    ("A-7 exit", "a road with a sign", "A road with a sign of Autobahn 7"),
    ("baked by Ana", "pastries on a tray", "Danish pastries on a tray, baked by Ana"),
    ("Anapolis harbor", "boats", "Boats in the harbor of Annapolis"),
    ("Tower of Pisa", "a tilted tower", "A tilted tower in Pisa, Italy"),
    ("737-800 at gate", "a plane", "A Boeing 737-800, a plane at the gate"),
    ("old map of Europe", "a map with a blue sea", "A map with a blue sea, the Mediterranean"),
    ("Weingut Gebr. Groß", "two men in a vineyard", "Two men, the brothers Gross, in a vineyard"),
    ("Umsatz 2.400.000 €", "a chart", "A chart of sales of 2.4 million euros"),
    ("bolt 1.8 cm", "a bolt", "A bolt of 18 millimeters"),
    ("Donautal im Nebel", "a valley in fog", "A valley of the Danube in fog"),
    ("canyonlandsUT_noon", "red rocks", "Red rocks in Utah"),
    ("Tenn. river barge", "a barge", "A barge on the Tennessee River"),
    ("LBC ferry", "a ferry", "A ferry to Long Beach City"),
    ("hndrx at the piano", "a man at a piano", "A man at a piano in the style of Hendrix"),
    ("ottinger forehand", "a woman with a racket", "A woman, Mirabel Ottinger, with a racket"),
    ("Der gestiefelte Kater", "a cat in boots", "A cat in boots, the hero of Puss in Boots"),
    ("abbey of Nonnberg", "nuns in a yard", "Nuns in a yard of Nonnberg in Austria"),
    ("our pup", "a big dog", "A Great Dane, a big dog"),
    ("Kaiser Friedrich", "a bust of a man", "A bust of a man, Emperor Frederick"),
]
INVENTED = [
    ("red bus", "a red bus", "A red bus in Dublin"),
    ("red bus", "a red bus", "Dublin's red bus"),
    ("red bus", "a red bus", "A red bus of 1962"),
    ("my cousin", "a boy with a kite", "Oliver, a boy with a kite"),
    ("tent", "a tent by a lake", "A tent by Lake Ontario"),
    ("tent", "a tent", "A tent that weighs eleven pounds"),
    ("shop", "a cup on a table", "A cup on a table for $14"),
    ("drill", "a green drill", "A green drill by Bosch"),
    ("drill", "a green drill", "A green drill, model GSR-1802"),
    ("park", "a bench in a park", "A bench in a park in October"),
    ("park", "a bench in a park", "A bench in Wexley Park"),
    ("park", "a bench in a park", "Wexley Park with a bench"),
    ("Anna on a bench", "a woman on a bench", "Anna Korbel on a bench"),  # a common name is no hint of the surname
    ("Toyota on gravel", "a car on gravel", "A Toyota Zephyra, a car on gravel"),  # nor is a brand of the model
    ("Nikon on a tripod", "a camera", "A camera by Pentax"),
    ("marathon", "people run", "People run the Ulverton Marathon"),
    ("Umsatz 2.400.000 €", "a chart", "A chart of sales of 2.6 million euros"),
]


@pytest.mark.parametrize(("alttext", "vec", "text"), KEPT)
def test_other_formats_and_languages_are_not_invented(alttext: str, vec: str, text: str) -> None:
    assert invented(Answer(text, alttext=alttext, vec=vec)) is None


@pytest.mark.parametrize(("alttext", "vec", "text"), INVENTED)
def test_new_names_and_numbers_are_invented(alttext: str, vec: str, text: str) -> None:
    assert invented(Answer(text, alttext=alttext, vec=vec)) == "invented"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Ein Hund und eine Katze im Garten vor der Hecke", None),  # nouns are capitalized
        ("Ein Hund im Garten in Düsseldorf", "invented"),
        ("Ein Hund auf einem Sofa von Ikea", "invented"),
        ("Ein Hund im Jahr 1987", "invented"),
    ],
)
def test_german_texts_are_checked_for_names_that_are_no_words(text: str, problem: str | None) -> None:
    settings = ScreenConfig(languages=("de",))
    assert invented(Answer(text, alttext="unser Hund", vec="ein Hund im Garten", settings=settings)) == problem


FUSIONS = [
    ("de", "Kölner Dom", "eine große Kirche mit zwei Türmen an einem Fluss", "Der Kölner Dom mit zwei Türmen am Fluss"),
    (
        "fr",
        "Mont-Saint-Michel",
        "une abbaye sur un rocher entouré de sable",
        "L'abbaye du Mont-Saint-Michel sur son rocher",
    ),
    ("es", "Gata Luna", "una gata negra duerme sobre una manta verde", "La gata negra Luna dormida en una manta verde"),
    (
        "it",
        "Lago di Garda",
        "delle barche a vela su un lago tra le montagne",
        "Barche a vela sul lago di Garda tra i monti",
    ),
    (
        "pt",
        "Praia da Rocha",
        "pessoas com guarda-sóis numa praia com falésias",
        "Guarda-sóis coloridos na Praia da Rocha",
    ),
    ("nl", "Kinderdijk", "oude molens langs het water bij zonsondergang", "De molens van Kinderdijk bij zonsondergang"),
    ("pl", "Morskie Oko", "jezioro otoczone wysokimi górami i lasem", "Morskie Oko, jezioro wśród wysokich gór"),
    (
        "tr",
        "Kapadokya",
        "vadinin üzerinde uçan renkli balonlar ve kayalar",
        "Kapadokya'da kayaların üzerinde renkli balonlar",
    ),
    ("ru", "Озеро Байкал", "лодка у деревянного причала на берегу озера", "Лодка у причала на озере Байкал"),
    ("zh", "西湖", "湖边有一座红色的塔和许多柳树", "西湖边的红塔与柳树"),
    ("ja", "金閣寺", "池のそばに金色の建物と松の木がある", "池のほとりに立つ金色の金閣寺と松"),
    ("ko", "남산타워", "밤에 언덕 위의 높은 탑이 빛나고 있다", "언덕 위에서 밤에 빛나는 남산타워"),
    ("th", "ภูเก็ต", "เรือไม้จอดอยู่บนชายหาดทรายขาว", "เรือไม้บนชายหาดขาวที่ภูเก็ต"),
    ("ar", "مسجد", "مئذنة عالية بجانب نخلة تحت سماء زرقاء", "مئذنة المسجد العالية قرب نخلة وسماء زرقاء"),
    ("vi", "Hội An", "những chiếc đèn lồng đỏ treo trên phố cổ", "Đèn lồng đỏ trên phố cổ Hội An"),
]


@pytest.mark.parametrize(("language", "alttext", "vec", "text"), FUSIONS)
def test_fusions_in_other_languages_are_kept(language: str, alttext: str, vec: str, text: str) -> None:
    answer = Answer(text, alttext=alttext, vec=vec, settings=ScreenConfig(languages=(language,)))
    assert (drops_vec(answer), invented(answer)) == (None, None)


def test_unrelated_texts_in_other_languages_drop_the_vec() -> None:
    unrelated_texts = [text for *_, text in FUSIONS[1:]]
    for (language, _, vec, _), unrelated in zip(FUSIONS, unrelated_texts, strict=False):
        answer = Answer(unrelated, vec=vec, settings=ScreenConfig(languages=(language,)))
        assert drops_vec(answer) == "drops_vec", vec


@pytest.mark.parametrize(
    ("vec", "text", "problem"),
    [
        ("An animal with brown fur lies on a rock.", "An otter rests on a boulder", None),  # hypernym, synonyms
        ("A man in an apron hits hot metal.", "A blacksmith hammers red-hot iron", None),  # role
        ("Three musicians play on a small stage.", "Visit our club, open every night", "drops_vec"),
        ("A city with tall buildings at a lake.", "Milwaukee is the largest city in Wisconsin", "drops_vec"),
        ("A girl feeds ducks on a frozen pond.", "A plate of pancakes with syrup", "drops_vec"),
    ],
)
def test_english_captions_are_compared_by_concepts(vec: str, text: str, problem: str | None) -> None:
    assert drops_vec(Answer(text, alttext="photo", vec=vec)) == problem


def test_english_texts_are_compared_by_concepts_beside_another_language() -> None:
    settings = ScreenConfig(languages=("de", "en"))
    assert drops_vec(Answer("A puppy on a couch", vec="a small dog lies on a sofa", settings=settings)) is None
    vec = "ein kleiner Hund liegt auf einem grünen Sofa"
    assert drops_vec(Answer("Der kleine Hund schläft", vec=vec, settings=settings)) is None
    assert drops_vec(Answer("Jetzt online bestellen", vec=vec, settings=settings)) == "drops_vec"

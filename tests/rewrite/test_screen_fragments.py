"""The rule `cut_off` finds incomplete beginnings and endings in each language and keeps complete captions."""

import time
from importlib.resources import files

import pytest

from vecap_tasks.config import ScreenConfig
from vecap_tasks.core.word_lists import read_lines
from vecap_tasks.rewrite.screen import RULES
from vecap_tasks.rewrite.screen.text import DATA, Answer

KINDS = ("beginnings", "endings")

INCOMPLETE = {
    "en": """
A stone bridge with three arches over a
The poster shows a rocket and the
Two goats stand on a rock that
A tray with glasses, a jug of water and two
Firefighters next to a truck whose
and lies beside a heap of apples.
which hangs above the stove in a farm kitchen.
; the second one is smaller.
, a lantern and a coil of rope.
A map with the caption "Trade routes of
...and a jug of milk.
down the stairs, a lamp in its hand.
in the background, painted in oil.
's nest under the roof of a barn.
""",
    "de": """
Ein Bauer führt zwei Kühe über eine
Der Turm, dessen
Eine Schale mit Äpfeln, Birnen und
Kinder spielen auf einem großen
Ein Foto von dem
Das Plakat wirbt für ein Konzert im
Ein Bus hält vor der Schule, weil
Ein Teller mit zwei
Schild mit der Aufschrift „Bitte nicht
Eine Wanderin mit einem roten
und trägt einen gelben Helm.
auf dem zwei Möwen sitzen.
""",
    "fr": """
Un vélo appuyé contre un
Deux chats dorment sur la
Un panier de pommes, de poires et de
La tour dont
Un paysan conduit un tracteur dans
Une femme qui porte une robe rouge et un
Le château se dresse au-dessus du
Affiche du film « Les enfants du
et porte un chapeau de paille.
dont le toit est couvert de neige.
""",
    "es": """
Una bicicleta apoyada contra la
Dos gatos duermen sobre el
Una cesta con manzanas, peras y
La torre cuyo
Un campesino conduce un tractor por
Una mujer que lleva un vestido rojo y un
El castillo se alza encima del
Un plato con tres
y lleva un sombrero de paja.
cuyas ventanas dan al mar.
""",
    "it": """
Una bicicletta appoggiata contro il
Due gatti dormono sulla
Un cesto con mele, pere e
La torre che
Un contadino guida un trattore tra gli
Una donna che indossa un vestito rosso e un
Il castello sorge sopra la
Un piatto con tre
e porta un cappello di paglia.
il cui tetto è coperto di neve.
""",
    "pt": """
Uma bicicleta encostada no
Dois gatos dormem sobre a
Uma cesta com maçãs, peras e
A torre cujo
Um camponês conduz um trator pela
Uma mulher que usa um vestido vermelho e um
O castelo fica acima da
Um prato com três
e usa um chapéu de palha.
cujas janelas dão para o mar.
""",
    "nl": """
Een fiets staat tegen de
Twee katten slapen op het
Een mand met appels, peren en
De toren waarvan
Een boer rijdt op zijn trekker door een
Een vrouw met een rode jurk en een
Het kasteel ligt boven de
Een bord met drie
en draagt een strohoed.
waarvan het dak met sneeuw bedekt is.
""",
    "pl": """
Rower oparty o
Dwa koty śpią na
Kosz z jabłkami, gruszkami i
Wieża, której
Rolnik jedzie traktorem przez
Kobieta w czerwonej sukience oraz
Zamek wznosi się nad
Na stole stoją trzy
i nosi słomkowy kapelusz.
którego dach pokrywa śnieg.
""",
    "ru": """
Велосипед прислонён к
Две кошки спят на
Корзина с яблоками, грушами и
Башня, которая
Фермер едет на тракторе через
Женщина в красном платье и
Замок возвышается над
На столе стоят три
и носит соломенную шляпу.
крыша которого покрыта снегом, потому что
""",
    "tr": """
Duvara yaslanmış bir
Sepette elmalar, armutlar ve
Kapının önünde duran kırmızı bisiklet ile
Karlı dağların arasındaki
Masada iki adet
Yağmur yağıyor çünkü
ve hasır şapka takıyor.
ile birlikte yürüyen bir çocuk.
""",
    "zh": """
一辆自行车靠在
篮子里有苹果、梨和
一位穿着红色连衣裙的
农民开着拖拉机从
桌子上摆着三个
城堡坐落于
墙上挂着一幅
以及一顶草帽。
""",
    "ja": """
自転車が壁に
かごの中にりんごと梨と
赤いドレスを着た女性の
農夫がトラクターで畑を
城は丘の上に建っており
テーブルの上には
を着た子どもたちが公園で遊んでいる。
""",
    "ko": """
자전거가 벽에
바구니 안에 사과와 배 그리고
빨간 드레스를 입은 여자의
농부가 트랙터를 타고 밭을
성은 언덕 위에 있으며
탁자 위에는
를 쓴 아이들이 공원에서 놀고 있다.
""",
}
COMPLETE = {
    "en": """
The bucket the fishermen carry their bait in
A sofa bed big enough for two
The village where my grandmother was born
Street art of a hand holding a rose, seen from across the street
A cupboard with all doors open
Two swans, one looking away, the other asleep
A plane about to take off
Poster of the musical Les Mis
A recipe for four
A child too shy to come in
The cliff they jumped off
Section of wall with the paint worn through
de Havilland Comet at an air show
A bus stop with a timetable no one looks at
""",
    "de": """
Ein Hahn kräht, die Sonne geht auf
Der Maler streicht die Wand gelb an
Kinder, die im Garten Fangen spielen
Zwei Frauen unterhalten sich
Ein Brot, das gerade gebacken wird
Die Turmuhr zeigt zehn nach
Straßenschild „An der Alten Mühle“
Der Bus, mit dem die Schüler fahren
Wie man ein Zelt aufbaut: Schritt für Schritt
Rotes Kleid, von hinten
Eine Familie zu Hause
Lampe, die an der Decke hängt und leuchtet
Ein Mann macht das Fenster zu
Die Feuerwehr rückt aus
Katze mit ihren Jungen, eines davon schwarz
mp3-Player mit Kopfhörern
Blick von oben
Das Haus, in dem Mozart geboren wurde
""",
    "fr": """
Femme vue de dos devant la mer
Un homme et son chien, vus d'en haut
Une robe à fleurs et les chaussures qui vont avec
Le livre dont tout le monde parle
Deux amies se tiennent par la main
Porte d'entrée de la mairie
Maison à louer, vue de côté
Un plat à partager
Panneau « Défense d'entrer »
Pain sans gluten
Une fillette saute par-dessus
Chat noir sur un mur, on dirait quelqu'un
""",
    "es": """
Vestido rojo visto desde atrás
Mesa para dos
La casa donde nació Cervantes
Una carta dentro de un sobre
El libro del que todos hablan
Dos amigas se dan la mano
Guitarra clásica y su funda, hecha a mano
Silla de oficina con ruedas, color gris
El perro que no sabía nadar
Uno tras otro
Cartel que dice «No pasar»
Un niño salta de alegría, su hermana también
Un cocinero prepara arroz a la cubana
""",
    "it": """
Vestito rosso visto da dietro
Tavolo per due
La casa in cui nacque Leonardo
Una lettera e la sua busta
Il libro di cui tutti parlano
Due amiche si tengono per mano
Chitarra classica fatta a mano
Cartello con scritto «Vietato entrare»
Un bimbo salta di gioia, sua sorella pure
Foto di gruppo, tutti ridono
Gatto nero su un muretto, visto dal basso
Cane che corre su e giù
""",
    "pt": """
Vestido vermelho visto de trás
Mesa para dois
A casa onde nasceu Pessoa
Uma carta e o seu envelope
O livro de que todos falam
Duas amigas de mãos dadas
Violão feito à mão
Placa com os dizeres «Entrada proibida»
Um menino pula de alegria, a irmã também
Foto de grupo, todos riem
Gato preto em cima do muro, visto de baixo
Bolo de cenoura com cobertura de chocolate
""",
    "nl": """
Rode jurk van achteren gezien
Tafel voor twee
Het huis waar Rembrandt woonde
Een brief en de envelop erbij
Het boek waar iedereen over praat
Twee vriendinnen houden elkaars hand vast
De zon komt op
Een man doet het raam dicht
Bord met de tekst 'Verboden toegang'
De brandweer rukt uit
Kat met haar kittens, waarvan er een zwart is
Het vliegtuig stijgt op
Een kok maakt pannenkoeken klaar
""",
    "pl": """
Czerwona sukienka widziana z tyłu
Stolik dla dwojga
Dom, w którym urodził się Chopin
List i koperta do niego
Książka, o której wszyscy mówią
Dwie przyjaciółki trzymają się za ręce
Gitara klasyczna i futerał na nią
Znak „Zakaz wjazdu”
Chłopiec skacze z radości, jego siostra też
Wspólne zdjęcie, wszyscy się śmieją
Czarny kot na murku, widok z dołu
Kobieta z psem, oboje w kapeluszach
""",
    "ru": """
Красное платье, вид сзади
Столик на двоих
Дом, в котором родился Пушкин
Письмо и конверт к нему
Книга, о которой все говорят
Две подруги держатся за руки
Гитара ручной работы, чехол для неё
Табличка «Вход воспрещён»
Мальчик прыгает от радости, его сестра тоже
Общее фото, все смеются
Чёрная кошка на заборе, вид снизу
Дом номер два
""",
    "tr": """
Arkadan görünen kırmızı elbise
İki kişilik masa
Atatürk'ün doğduğu ev
Bir mektup ve zarfı
Herkesin konuştuğu kitap
El ele tutuşan iki arkadaş
Kedi kanepenin üstünde
Çocuklar bahçede oynuyor
El yapımı klasik gitar
"Girmek yasaktır" tabelası
Sevinçten zıplayan çocuk
Duvarın üzerinde kara bir kedi
Galata Kulesi, İstanbul
""",
    "zh": """
红色连衣裙的背面
两人用餐的桌子
鲁迅出生的房子
一封信和它的信封
两个朋友手拉着手
手工制作的古典吉他
写着“禁止入内”的牌子
高兴得跳起来的男孩
墙头上的一只黑猫
这家店的招牌是红色的
孩子们在公园里玩耍
成都大熊猫繁育研究基地的幼崽正在睡觉
""",
    "ja": """
後ろから見た赤いドレス
二人用のテーブル
夏目漱石が生まれた家
手紙とその封筒
手をつなぐ二人の友達
手作りのクラシックギター
「立入禁止」と書かれた看板
喜んで飛び跳ねる男の子
塀の上の黒猫
子どもたちが公園で遊んでいる
皿に盛られた茹でたかに
春の山とふもとの村
母の日の贈りもの
""",
    "ko": """
뒤에서 본 빨간 원피스
두 사람을 위한 식탁
윤동주가 태어난 집
편지와 그 봉투
손을 잡은 두 친구
수제 클래식 기타
'출입 금지'라고 적힌 표지판
기뻐서 뛰는 남자아이
담장 위의 검은 고양이
아이들이 공원에서 놀고 있다
제주도 지도
벽에 걸린 귀걸이와 목걸이
신문을 읽는 할아버지와 어린이
""",
}


def _examples(texts: dict[str, str]) -> list[tuple[str, str]]:
    return [(language, text) for language, lines in texts.items() for text in lines.strip().split("\n")]


def _cut_off(text: str, *languages: str, alttext: str = "") -> bool:
    return RULES["cut_off"](Answer(text, alttext=alttext, settings=ScreenConfig(languages=languages))) is not None


@pytest.mark.parametrize(("language", "text"), _examples(INCOMPLETE))
def test_incomplete_texts_are_cut_off(language: str, text: str) -> None:
    assert _cut_off(text, language)


@pytest.mark.parametrize(("language", "text"), _examples(COMPLETE))
def test_complete_texts_are_kept(language: str, text: str) -> None:
    assert not _cut_off(text, language)


@pytest.mark.parametrize(
    ("languages", "text", "problem"),
    [
        (("de",), "A goat on a rock and the", True),  # models use English whatever the prompt says
        (("de",), "Ein Foto an der See, was alle", False),
        (("de",), "Eine Ziege und die", True),
        (("de",), "Der Mann zieht sich an", False),  # "an" cannot end an English caption
        (("en", "de"), "Die Tür geht auf, der Hund kommt an", False),
        (("de", "en"), "Eine Ziege auf einem", True),
        (("it", "fr"), "Une chèvre et la", True),
        (("ja", "zh"), "岩の上に立つヤギの", True),
        (("zh", "ja"), "岩石上的一只山羊和", True),
        (("sv",), "En get på en", False),  # no data
        (("sv",), "A goat that stands on the", True),
        ((), "Eine Ziege mit einem", True),
        ((), "A goat with an", True),
        ((), "Коза на", True),
    ],
)
def test_a_text_is_read_in_its_language(languages: tuple[str, ...], text: str, problem: bool) -> None:
    assert _cut_off(text, *languages) is problem


def test_words_that_a_source_begins_or_ends_with_are_kept() -> None:
    assert not _cut_off("with love from us", "en", alttext="with love from us: a card")
    assert _cut_off("with love from us", "en", alttext="a card")
    assert not _cut_off("A poster of the film I Am Number and", "en", alttext="film I Am Number and")


@pytest.mark.parametrize("text", ["Schild „Am Tor“", "Schild „Am Tor”", "»Zu spät« steht auf dem Schild", "»Zu spät«"])
def test_quotation_marks_of_other_languages_close(text: str) -> None:
    assert not _cut_off(text, "de")


@pytest.mark.parametrize("text", ["Schild „Am Tor", "Schild «Am Tor", "Eine Frau (links im Bild", "看板「入口"])
def test_an_open_quotation_is_cut_off(text: str) -> None:
    assert _cut_off(text, "de", "zh")


def test_each_language_has_beginnings_and_endings() -> None:
    names = {kind: {path.name for path in files(DATA).joinpath("data", kind).iterdir()} for kind in KINDS}
    assert names["beginnings"] == names["endings"] == {f"{language}.txt" for language in COMPLETE}


@pytest.mark.parametrize("language", COMPLETE)
def test_the_words_of_a_file_are_distinct(language: str) -> None:
    for kind in KINDS:
        lines = [line for line in read_lines(DATA, f"{kind}/{language}") if line[0] not in "~!"]
        heads = [word for line in lines for word in line.partition(":")[0].split()]
        assert [word for word in heads if heads.count(word) > 1] == [], kind


@pytest.mark.parametrize("language", COMPLETE)
@pytest.mark.parametrize("piece", ["a ", "the a ", "、の", "和 ", "a, ", "der ", "а, и ", "를 ", "über einen "])
def test_a_long_text_takes_little_time(language: str, piece: str) -> None:
    started = time.process_time()
    _cut_off((piece * 4_000)[:4_000], language)
    assert time.process_time() - started < 0.2

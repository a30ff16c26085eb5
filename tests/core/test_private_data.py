"""Private data is found in the formats of many countries, and other numbers are not taken for it."""

from __future__ import annotations

import time

import pytest

from vecap_tasks.core.private_data import HIDDEN, has_private_data, hide

PHONE_NUMBERS = (
    "+1 212 555 0123 on a wall", "A truck with 1-212-555-0142", "(212) 555-0142 in gold letters",
    "Rent: 310.555.0142", "001 212 555 0142", "+44 (0)20 7946 0958", "A door with 0121 496 0123", "(020) 7946 0958",
    "01632 960417", "Schild mit 0171/1234567", "089 / 123 456 78 an der Tür", "Banner 0711 123456-0",
    "Tel.(030)1234567", "06.39.98.12.35 sur un volet", "01 99 00 12 35", "Cartel con el 612 34 56 78",
    "Letrero, tel 91 123 45 67", "Insegna con 347 555 0145", "Bord met 06-12345678", "zadzwoń 601 234 567",
    "Szyld, tel. 22 123 45 67", "Вывеска 8-800-555-35-35", "+7 (912) 345-67-89 на стене", "тел. 8 (495) 123-45-67",
    "0 (212) 123 45 67 yazılı tabela", "Tabela 0532 123 45 67", "招牌上写着 13855500147", "电话：010-12345678",
    "看板に06-6123-4567", "フリーダイヤル 0120-444-444", "간판에 010-1234-5678로", "전화 02-123-4567",
    "Placa (11) 3456-7890", "+55 11 91234-5678", "Hoarding 098765 43210", "+234 803 123 4567",
    "082 123 4567 on a bakkie", "٠٥٠ ١٢٣ ٤٥٦٧ هاتف", "0812 3456 7890 di spanduk", "โทร 02-123-4567", "08-123 456 78",
    "tlf 22 12 34 56", "puh. 040 123 4567", "044 123 45 67", "0475/12.34.56", "054-123-4567", "06 1 123 4567",
    "0722 123 456", "０３－５５５５－０１２３", "A sign, phone 4-5502", "dial 47-56-01",
    "Yard sale, orders: 9956 5018", "the baker's number 98 5550 4417", "phone: two zero five, 555, 0182",
    "call 5 5 5 0 1 9 9",
)  # fmt: skip
EMAILS = (
    "jane@example.co.uk", "JANE.DOE@EXAMPLE.COM", "jane＠example．com", "jane @ example.com", "müller@beispiel.de",
    "jane [at] example [dot] org", "jane(at)example.org", "jane{at}example{dot}com", "jane (@) example.com",
    "jane AT example DOT org", "jane at mail dot example dot net", "maria arroba ejemplo punto com",
    "max (ät) beispiel (punkt) de", "jean arobase exemple point fr",
)  # fmt: skip
ACCOUNTS = (
    "IBAN GB29 NWBK 6016 1331 9268 19", "FR1420041010050500013M02606 on a form", "Card 4111 1111 1111 1111",
    "5500-0000-0000-0004", "a form with 123-45-6789", "passport number 123456789", "driver's license D123-4567-8901",
)  # fmt: skip
LINKS = (
    "https://example.org/call/+49-171-1234567", "call https://example.org/tel/%2B49%20171%201234567 now",
    "callto:0171-1234567", "tel:+491711234567", "see tel:2125550142", "sms:+12125550142", "facetime:+12125550142",
    "https://wa.me/491711234567", "wa.me/491711234567", "https://example.org/call/0171 1234567",
    "https://api.whatsapp.com/send?phone=491711234567", "example.org/call/2125550142", "https://a.example/phone/01711234567",
    "https://a.example/?tel=01711234567",
    "www.example.org/contact/212-555-0142", "mailto:jane%40example.com", "jane%40example.com",
    "mailto:jane@example.com?subject=Hi", "https://a.example/call/0171%C2%AD%E2%80%91123%EF%BC%9467",
    "https://example.org/?x=1&email=jane%40example.com", "https://example.org/u/jane@example.com/1.jpg",
    "<a href='tel:+49-171-1234567'>", "https://a.example/iban/GB29NWBK60161331926819",
)  # fmt: skip
OTHER_LINKS = (
    "https://shop.example/phone/1234567", "https://example.org/mobile/4006381333932", "a.org/contact/2019/04/123456",
    "https://shop.example/mobile-phone-12345678.html", "https://example.org/mobile/2019/04/20/123456.jpg",
    "https://www.example.com/photo/4111111111111111", "https://a.example/photo?fbid=4111111111111111&set=a.1",
    "https://news.example/2019-04-20/call-for-papers-2019-1234567", "https://shop.tel/12345678",
    "https://a.example/550e8400-e29b-41d4-a716-446655440000.jpg", "https://a.example/web/20190420120705/x",
    "https://a.example/photos/2019/04/20/12345678-1234567.jpg", "https://a.example/img_20190420_120705.jpg?w=1200",
    "https://www.example.com/photos/12345678@N00/1234567890", "https://maps.example/@40.7128,-74.0060,15z",
    "https://cdn.example/npm/pkg@1.2.3/dist.js", "https://a.example/@someone/title-1234567890",
    "https://doi.org/10.1000/123456.7890123", "https://arxiv.org/abs/astro-ph/0511773",
    "https://a.example/100%25/20%20off", "https://a.example/text/1234567.txt",
    "https://a.example/dp/B00FLYWNYQ/ref=sr_1_1?qid=1571234567&sr=8-1", "https://a.example/watch?v=dQw4w9WgX&t=1234567",
)  # fmt: skip
OTHER = (
    "A Boeing 747-400 and a 737-800", "Lego 42115-1, 3696 pieces", "ISBN-13: 978-3-16-148410-0", "ISSN 2049-3630",
    "EAN 4006381333932", "UPC 036000291452", "1920x1080 wallpaper", "300 600 1200 dpi", "1914-1918",
    "20.04.2019 12:07", "04/20/2019 - 05/21/2019", "02.06.2020 15.30 Uhr", "1 000 000 Euro", "$1,234,567.89",
    "house for 450 000 €", "40.7128 -74.0060", "SKU 212-555-0142", "Part 06A 905 115 D", "part no 059 130 277",
    "Sudoku 534678912", "3.14159265358979", "192.168.100.200", "Version 10.0.19041.1415", "Porsche 911 993 1997",
    "Locomotive 218 217-8", "05 12 19 26 33 40 49", "Score 25-22 25-19 25-23", "ZIP 90210-1234", "12345 Berlin",
    "population 1 425 775 851", "+1 000 000 views", "order 114-1234567-1234567", "logo@2x.png", "photo@1.5x.jpg",
    "@nasa on a screen", "a girl at dot painting class", "look at the dot com boom", "noir et blanc, point de vue",
    "33 45 78 rpm", "phone 12 64 128 256 GB", "Call of Duty 4 2007", "telephone, 1930-1940",
    "numbers one two three four five six seven", "Runner 4512 8891", "021-065-118", "Peugeot 205 309 1900",
    "артикул 123-456-7890", "〒150-0001 東京都", "2024年3月 100周年", "ul. Długa 12, 00-123 Warszawa",
    "1-2-3-4-5-6-7", "4111 1111 1111 1112",
)  # fmt: skip


@pytest.mark.parametrize("text", [*PHONE_NUMBERS, *EMAILS, *ACCOUNTS, *LINKS])
def test_private_data_is_found(text: str) -> None:
    assert has_private_data(text)


@pytest.mark.parametrize("text", [*OTHER, *OTHER_LINKS])
def test_other_numbers_are_kept(text: str) -> None:
    assert not has_private_data(text)


def test_invisible_characters_do_not_hide_private_data() -> None:
    assert has_private_data("jane\u200b@exam\u00adple.com")
    assert has_private_data("212\u200b-555\u2011\u200b0142")


@pytest.mark.parametrize("code", [0x34F, 0x180B, 0x2063, 0xFE0F, 0xE0020])
def test_ignorable_characters_do_not_hide_private_data(code: int) -> None:
    assert has_private_data(f"call 212{chr(code)}-555-{chr(code)}0142")


@pytest.mark.parametrize("text", ["212  555 \t0142", "jane\n@ example.com", "(212)\r\n 555\u00a0\u00a00142"])
def test_white_space_does_not_hide_private_data(text: str) -> None:
    assert has_private_data(text)


def test_tags_and_entities_do_not_hide_private_data() -> None:
    assert has_private_data("jane<b>@</b>example.com")
    assert has_private_data("call 212<b>-555-</b>01&lt;i&gt;42&lt;/i&gt;")
    assert not has_private_data("<b>5 < 6</b> and 7 > 212")
    assert has_private_data("jane&#64;example.com")
    assert has_private_data("call &#50;&#49;2-555&hyphen;0142")


def test_pages_hide_a_text_with_private_data_even_if_it_is_escaped() -> None:
    assert hide("Call 212-555-0142") == HIDDEN
    assert hide("jane&#64;example.com") == HIDDEN
    assert (hide("A beagle & a cat"), hide(""), hide(None)) == ("A beagle & a cat", "", None)


@pytest.mark.parametrize(
    "part",
    [
        "0 1 ",
        "a@",
        "+1 ",
        "(",
        "one two ",
        "1-",
        "a at ",
        "a.b@",
        "at dot ",
        "[a.b-",
        "AB12 ",
        "アット",
        "phone 1 ",
        "a.example/1/",
        "%40",
    ],
)
def test_the_time_grows_linearly(part: str) -> None:
    text = (part * 20_000)[:40_000]
    started = time.process_time()
    has_private_data(text)
    assert time.process_time() - started < 1

"""Response headers and redirects as browsers accept them."""

import asyncio

import pytest

from tests.crawl.test_fetcher import URL, failure_message, get, get_all
from tests.crawl.web import Answer
from vecap_tasks.crawl.http.headers import MAX_HEADER, normalize_header
from vecap_tasks.errors import Failure

OK = b"HTTP/1.1 200 OK\r\n"
END = b"Content-Length: 1\r\n\r\nx"


def raw(*pieces):
    """Return a handler that sends *pieces* as they are, with a pause between them."""

    async def answer(request):
        for piece in pieces:
            request.transport.write(piece)
            await asyncio.sleep(0.02)
        request.transport.close()
        await asyncio.sleep(0.2)

    return answer


ACCEPTED = {
    "a long field": OK + b"Set-Cookie: " + b"x" * 20_000 + b"\r\n" + END,
    "many fields": OK + b"X-Nothing: 1\r\n" * 5_000 + END,
    "a message of PHP": OK + b"PHP Warning:  Undefined variable $x in /a.php on line 3\r\n" + END,
    "an HTML message": OK + b"<br />\n<b>Notice</b>: x in <b>/a.php</b> on line 3<br />\r\n" + END,
    "a line without colon": OK + b"no field\r\n" + END,
    "an empty name": OK + b": nothing\r\n" + END,
    "line feeds only": OK.replace(b"\r", b"") + END.replace(b"\r", b""),
    "a control character": OK + b"X-Odd: \x00\x01\x7f\r\n" + END,
    "a folded line": OK + b"Content-Type: text/html;\r\n charset=utf-8\r\n" + END,
    "no reason": b"HTTP/1.1 200\r\n" + END,
    "a lowercase protocol": b"http/1.1 200 ok\r\n" + END,
    "no version": b"HTTP 200 OK\r\n" + END,
    "leading line breaks": b"\r\n\r\n" + OK + END,
    "the length twice": OK + b"Content-Length: 1\r\n" + END,
    "an invalid length": OK + b"Content-Length: many\r\nConnection: close\r\n\r\nx",
    "chunks with a length": OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "an informational response": b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + OK + END,
    "bytes that are not UTF-8": OK + b"Content-Disposition: inline; filename=\xe9.png\r\n" + END,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_headers_that_browsers_accept_are_accepted(web, fetch_config, name):
    data = ACCEPTED[name]
    config = fetch_config(robots=False, tdmrep=False)
    for pieces in ([data], [data[:9], data[9:-3], data[-3:]]):
        web.answers["/a.png"] = raw(*pieces)
        assert get(config).body == b"x"


@pytest.mark.parametrize(
    "data",
    [
        OK + b"X-Long: " + b"x" * MAX_HEADER + b"\r\n" + END,
        OK + b"x" * (MAX_HEADER + 9),
        b"<html>no header</html>\r\n\r\n",
        b"HTTP/1.1 fine\r\n" + END,
        OK + b"Content-Length: 2\r\n" + END,
        b"HTTP/1.1 103 Wait\r\n\r\n" * 20_000,
    ],
)
def test_other_headers_fail_only_their_row(web, fetch_config, data):
    web.answers |= {"/a.png": raw(data), "/b.png": Answer(b"x")}
    bad, good = get_all(fetch_config(robots=False, tdmrep=False), URL, "http://site.example/b.png")
    assert isinstance(bad, Failure)
    assert bad.reason in ("bad_response", "connection_reset")
    assert good.body == b"x"


def test_connections_are_reused(web, fetch_config):
    ports = set()

    async def answer(request):
        ports.add(request.transport.get_extra_info("peername")[1])
        return await web._answer(request.clone(rel_url="/b.png"))

    web.answers |= {f"/{number}.png": answer for number in range(5)} | {"/b.png": Answer(b"x")}
    config = fetch_config(robots=False, tdmrep=False, connections=1, connections_per_host=1)
    found = get_all(config, *(f"http://site.example/{number}.png" for number in range(5)))
    assert [download.body for download in found] == [b"x"] * 5
    assert len(ports) == 1


def test_only_the_fields_that_count_are_passed_on():
    header = OK.replace(b"1.1", b"1.0") + b"Server: x\r\nTransfer-Encoding: chunked\r\nCONTENT-LENGTH : 3, 3\r\nETag: y"
    assert normalize_header(header) == b"HTTP/1.0 200 -\r\nContent-Length: 3\r\n\r\n"


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/caf\u00e9.png".encode(), "/caf%C3%A9.png"),
        (b"/caf\xe9.png", "/caf%E9.png"),
        ("/\u56fe.png?q=\u56fe".encode("gbk"), "/%CD%BC.png?q=%CD%BC"),
        (b"http://other.example/a b.png", "/a%20b.png"),
    ],
)
def test_raw_bytes_of_redirects_are_percent_encoded(web, fetch_config, location, path):
    web.answers |= {"/a.png": raw(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")}
    web.answers[path] = Answer(b"x")
    download = get(fetch_config(robots=False, tdmrep=False))
    assert download.url.partition(".example")[2] == path


@pytest.mark.parametrize("content_type", [b"\xff\xfe", b";;;==", b"text/html; charset=" + b"x" * 9000, b"a" * 9000])
def test_any_content_type_is_text(web, fetch_config, content_type):
    web.answers["/a.png"] = raw(OK + b"Content-Type: " + content_type + b"\r\n" + END)
    download = get(fetch_config(robots=False, tdmrep=False))
    download.content_type.encode()
    assert len(download.content_type) + len(download.charset or "") <= 1000


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("Content-Usage", "train-ai=n", "content-usage"),
        ("Content-Usage", "search=y, train-ai=n;exception=1", "content-usage"),
        ("Content-Usage", "bots=n", "content-usage"),
        ("content-signal", "search=yes, ai-input=yes, ai-train=no", "content-signal"),
    ],
)
def test_training_opt_outs_in_headers_are_obeyed(web, fetch_config, field, value, rule):
    web.answers["/a.png"] = Answer(b"x", headers={field: value})
    assert failure_message(fetch_config()) == f"opt_out: {rule}"
    assert get(fetch_config(robots=False)).body == b"x"

"""The streaming JSON reader returns the same values as Python's parser, for any block size."""

import io
import json
import random

import pytest

from vecap_tasks.core import json_reader
from vecap_tasks.core.json_reader import UNREADABLE, JsonError, JsonReader


def read(text):
    reader = JsonReader(io.StringIO(text))
    found = list(reader.items())
    reader.end()
    return found


def random_value(rng, depth=0):
    kind = rng.random()
    if depth < 3 and kind < 0.3:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if depth < 3 and kind < 0.6:
        return {rng.choice('ab"\\é{['): random_value(rng, depth + 1) for _ in range(3)}
    return rng.choice([1, -2.5, 1e-7, None, True, "a", "\\", '"', "[{", 12345, "", "\n"])


@pytest.mark.parametrize("block", [1, 2, 5, 50, 1 << 18])
def test_values_match_the_parser_and_a_truncated_document_is_an_error(monkeypatch, block):
    monkeypatch.setattr(json_reader, "_BLOCK", block)
    rng = random.Random(block)
    for _ in range(200):
        values = [random_value(rng) for _ in range(rng.randrange(5))]
        text = json.dumps(values, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        assert read(text) == values
        with pytest.raises(JsonError):
            read(text[: rng.randrange(len(text))])


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
@pytest.mark.parametrize(
    "bad", ["1" * 5000, "nope", "1.", "007", "-", '"\\x"', '{"a" 1}', "[1, 2", "[" * 9999 + "]" * 9999]
)
def test_an_invalid_value_is_skipped_if_it_has_an_end(monkeypatch, bad, block):
    monkeypatch.setattr(json_reader, "_BLOCK", block)
    if bad == "[1, 2":
        with pytest.raises(JsonError):
            read(f"[1, {bad}, 3]")
    else:
        assert read(f"[1, {bad}, 3]") == [1, UNREADABLE, 3]


@pytest.mark.parametrize("text", ["", "{}", "[1 2]", "[1,, 2]", "[1,]", "[1] 2", "[1}", "1"])
def test_an_error_between_values_ends_the_document(text):
    with pytest.raises(JsonError):
        read(text)


def test_a_value_without_an_end_does_not_fill_memory(monkeypatch):
    monkeypatch.setattr(json_reader, "_MAX_VALUE", 1 << 16)
    with pytest.raises(JsonError, match="more than 65,536 characters"):
        read('["' + "a" * (1 << 20))


def test_members_are_read_or_skipped():
    reader = JsonReader(io.StringIO('{"a": [1, {"b": [2]}], "c": {"d": "]"}, "e": [3], "f": "g"}'))
    found = {}
    for name in reader.names():
        if name == "e":
            found[name] = list(reader.items())
        elif name == "f":
            found[name] = reader.value()
        else:
            reader.skip()
    reader.end()
    assert found == {"e": [3], "f": "g"}

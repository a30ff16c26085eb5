"""JSON documents read value by value: what the parser of all at once reads, whatever the blocks."""

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


def some_value(rng, depth=0):
    kind = rng.random()
    if depth < 3 and kind < 0.3:
        return [some_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if depth < 3 and kind < 0.6:
        return {rng.choice('ab"\\é{['): some_value(rng, depth + 1) for _ in range(3)}
    return rng.choice([1, -2.5, 1e-7, None, True, "a", "\\", '"', "[{", 12345, "", "\n"])


@pytest.mark.parametrize("block", [1, 2, 5, 50, 1 << 18])
def test_the_values_are_those_of_the_whole_and_a_cut_is_seen(monkeypatch, block):
    monkeypatch.setattr(json_reader, "_BLOCK", block)
    rng = random.Random(block)
    for _ in range(200):
        values = [some_value(rng) for _ in range(rng.randrange(5))]
        text = json.dumps(values, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        assert read(text) == values
        with pytest.raises(JsonError):
            read(text[: rng.randrange(len(text))])


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
@pytest.mark.parametrize(
    "bad", ["1" * 5000, "nope", "1.", "007", "-", '"\\x"', '{"a" 1}', "[1, 2", "[" * 9999 + "]" * 9999]
)
def test_a_value_that_cannot_be_read_costs_itself_or_is_a_cut(monkeypatch, bad, block):
    monkeypatch.setattr(json_reader, "_BLOCK", block)
    if bad == "[1, 2":
        with pytest.raises(JsonError):
            read(f"[1, {bad}, 3]")
    else:
        assert read(f"[1, {bad}, 3]") == [1, UNREADABLE, 3]


@pytest.mark.parametrize("text", ["", "{}", "[1 2]", "[1,, 2]", "[1,]", "[1] 2", "[1}", "1"])
def test_damage_between_values_is_the_end(text):
    with pytest.raises(JsonError):
        read(text)


def test_a_value_without_an_end_is_not_kept(monkeypatch):
    monkeypatch.setattr(json_reader, "_MOST", 1 << 16)
    with pytest.raises(JsonError, match="more than 65,536 characters"):
        read('["' + "a" * (1 << 20))


def test_members_are_read_or_passed_over():
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

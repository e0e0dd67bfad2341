"""Values from outside: what is expected is said by types, and whatever else comes is told in one line."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroboros_lib.data.folder_formats import About
from ouroboros_lib.data.gso import Record
from ouroboros_lib.data.shards import Index
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.results import Evaluation
from ouroboros_lib.evaluation.tables import Ablation
from ouroboros_lib.files import dump_json, load_json, parse_json
from ouroboros_lib.training.recipe import Recipe
from ouroboros_lib.values import Between, Natural, Positive, changed, check_fields, checked, rows_from_text


class Part(TypedDict):
    name: str
    size: Natural


class Whole(Part, total=False):
    kind: Literal["a", "b", 3]
    parts: list[Part]
    place: tuple[float, float] | None
    share: dict[str, Annotated[float, Between(0, 1, below=True)]]


GOOD = {"name": "x", "size": 0, "kind": 3, "parts": [{"name": "y", "size": 2, "more": [1]}], "place": [1, 2.5],
        "share": {"a": 0.5}, "unknown": None}
BAD = {  # a change of GOOD, and what is said about it
    "name: expected a text, got 3": {"name": 3}, "size: expected a whole number of at least 0, got -1": {"size": -1},
    "size: expected a whole number of at least 0, got True": {"size": True},
    "size: expected a whole number of at least 0, got 2.0": {"size": 2.0},
    "kind: expected one of a, b, 3, got 'c'": {"kind": "c"},
    "kind: expected one of a, b, 3, got a list of 1": {"kind": [3]},
    "parts[1].size: expected a whole number of at least 0, got nothing": {"parts": [GOOD, {"name": ""}]},
    "parts: expected a list, got an object of 1": {"parts": {"a": 1}},
    "place: expected a list or null, got 'here'": {"place": "here"},
    "place: expected a list or null, got a list of 3": {"place": [1, 2, 3]},
    "place[1]: expected a number, got inf": {"place": [1, math.inf]},
    "share['a']: expected a number of at least 0 and below 1, got 1": {"share": {"a": 1}},
    "share['a']: expected a number of at least 0 and below 1, got nan": {"share": {"a": math.nan}},
    "name: expected a text, got '\\ud800'": {"name": "\ud800"}, "name: expected a text, got 'a\\x00'": {"name": "a\0"},
}


def test_records_are_taken_as_they_are():
    assert checked(GOOD, Whole, "x.json") is GOOD
    assert checked(10**300, Positive, "x") and checked(None, float | None, "x") is None


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_is_said_with_its_place(message):
    with pytest.raises(InputError, match="^" + re.escape(f"x.json: {message}") + "$"):
        checked(GOOD | BAD[message], Whole, "x.json")


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: (
    st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        "name size parts shards file bytes objects settings summary protocol cells mean primary_views comparisons "
        "missing stages preset seeds render source to_world files".split()), inner, max_size=6)), max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(_JSON)
def test_json_of_any_shape_is_taken_or_told_in_one_line(record):
    for kind in (Whole, Index, Evaluation, Ablation, Recipe, About, Record):
        try:
            assert checked(record, kind, "x.json") is record
        except InputError as error:
            assert str(error).startswith("x.json: ") and "\n" not in str(error) and len(str(error)) < 300


@pytest.mark.parametrize("text", [
    "NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "[" * 100_000, "9" * 5000, "\x00", ""])
def test_no_file_holds_what_is_no_number_or_has_no_end(text):
    with pytest.raises(InputError, match="^a.json: not a JSON file"):
        parse_json(text.encode(), "a.json")


def test_json_that_is_written_can_be_read_by_everyone():
    assert load_json(dump_json({"a": [1, 0.1, None]})) == {"a": [1, 0.1, None]}
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            dump_json({"a": [value]})


@dataclass
class Settings:
    count: Annotated[int, Between(1)] = 1
    until: Annotated[float, Between(0)] = math.inf
    on: bool = False

    def __post_init__(self):
        check_fields(self)


def test_settings_from_text():
    assert changed(Settings(), ["count=3", "until=2", "on=yes"], "") == Settings(3, 2.0, True)
    assert changed(Settings(until=3), ["until=inf"], "").until == math.inf  # what the class itself says
    for text in ("count=0", "count=1.5", "until=nan", "until=-inf", "until=-1", "on=2"):
        with pytest.raises(InputError, match=f"^--set {text}: expected"):
            changed(Settings(), [text], "--set ")
    with pytest.raises(InputError, match="^until=nan: expected a number of at least 0$"):
        Settings(until=math.nan)


class Line(NamedTuple):
    name: str
    value: float
    note: float | Literal[""] = ""


def test_rows_of_a_table():
    rows = rows_from_text(Line, [["1", "1"], ["b", "2e-3", ""], ["c", "3", "4"]], "t.csv")
    assert rows == [Line("1", 1.0), Line("b", 0.002, ""), Line("c", 3.0, 4.0)]
    for line, message in (
            (["a"], "1 cells, expected 3: name, value, note"), (["a", "1", "", ""], "4 cells"),
            (["a", "x"], "value: expected a number, got 'x'"), (["a", "inf"], "value: expected a number, got inf"),
            (["a", "1", "x"], "note: expected a number")):
        with pytest.raises(InputError, match=f"^t.csv: line 3: {message}"):
            rows_from_text(Line, [["a", "1"], line], "t.csv")


def test_json_is_read_and_written_in_one_place():
    """Elsewhere it would let NaN through; here are those that read or write what is no file of others."""
    library = Path(__file__).parents[1] / "ouroboros_lib"
    found = {path.relative_to(library).as_posix() for path in library.rglob("*.py")
             if re.search(r"\bjson\.(loads?|dump)\(|json\.dumps\(.*\)\.encode", path.read_text())}
    assert found <= {"files/__init__.py", "files/one_writer.py", "presets/__init__.py", "evaluation/protocols.py"}

"""Places are the same everywhere and lie where they say; completions are scored as worked by hand and asked for once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_evaluator_line_completion import LineCompletion, edit_similarity, exact_match, places_of
from kdtool_measuring import Document
from kdtool_testing import EvaluatorConformance, OneRuntime, ScriptedRuntime, make_run

SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)
CODE = "import os\n\ndef size(path):\n    return os.stat(path).st_size\n\n\nclass Box:\n    pass\nlast = 1"
TEXTS = st.text(alphabet="ab _.(){}=\n\r\t1ä\u2028", max_size=200)


class TestLineCompletion(EvaluatorConformance):
    component = LineCompletion
    entry_point = "line-completion"


def test_places_are_behind_the_first_token_of_a_line_that_goes_on() -> None:
    found = [
        (place.id, place.before.rpartition("\n")[2], place.rest) for place in places_of(Document("d", CODE), 9, 99)
    ]
    assert found == [
        ("d:3", "def", " size(path):"),
        ("d:4", "    return", " os.stat(path).st_size"),
        ("d:7", "class", " Box:"),
    ]


@given(TEXTS, st.integers(1, 5), st.integers(1, 300))
def test_places_lie_in_the_document_with_their_context_before_them(text: str, most: int, context: int) -> None:
    document = Document("d", text)
    found, everywhere = places_of(document, most, context), places_of(document, 1000, context)
    assert len(found) == min(most, len(everywhere))
    assert [place for place in everywhere if place in found] == found
    for place in found:
        assert f"{place.before}{place.rest}\n" in text
        assert 0 < len(place.before) <= context
        assert "\n" not in place.rest
        assert any(letter.isalnum() or letter == "_" for letter in place.rest)


def test_the_choice_of_places_hardly_changes_with_the_document() -> None:
    lines = [f"x{i} = {i}\n" for i in range(40)]
    before = {place.id for place in places_of(Document("d", "".join(lines)), 10, 50)}
    after = {place.id for place in places_of(Document("d", "".join([*lines, "y = 1\n"])), 10, 50)}
    assert len(before & after) >= 9
    assert before != {f"d:{number}" for number in range(2, 12)}
    (place,) = places_of(Document("d", "first = 1\nsecond\nthird = 3\n"), 1, 14)
    assert place.before == "second\nthird", "a context begins with a whole line"


@pytest.mark.parametrize(
    ("completion", "line", "exact", "similarity"),
    [
        (" = 1", " = 1", 1.0, 1.0),
        (" =  1 ", " = 1", 1.0, 2 * 3 / 7),  # white space divides tokens, however much it is
        ("=1", " = 1", 0.0, 2 * 2 / 5),
        ("abcd", "abxd", 0.0, 2 * 3 / 8),
        ("", " x", 0.0, 0.0),
        ("", "", 1.0, 1.0),
    ],
)
def test_scores_are_those_worked_by_hand(completion: str, line: str, exact: float, similarity: float) -> None:
    assert exact_match(completion, line) == exact
    assert edit_similarity(completion, line) == pytest.approx(similarity)


@given(TEXTS, TEXTS)
def test_scores_are_fractions_and_symmetric(one: str, other: str) -> None:
    assert 0 <= edit_similarity(one, other) <= 1
    assert edit_similarity(one, other) == pytest.approx(edit_similarity(other, one))
    assert edit_similarity(one, one) == exact_match(one, one) == 1


class Knowing(ScriptedRuntime):
    """Completes as the document does where it says `return`, else with `?`."""

    abilities = frozenset({"continue", "infill"})

    def __init__(self) -> None:
        super().__init__(lambda request: " os.stat(path).st_size" if request.prompt.endswith("return") else "?")


def evaluate(folder: Path, runtime: kdtool.Runtime, **settings: Any) -> dict[str, kdtool.Measurement]:
    examples = [
        kdtool.Example("long", kdtool.Text(CODE), split="test"),
        kdtool.Example("short", kdtool.Text("x\nreturn os.stat(path).st_size\n"), split="test"),
        kdtool.Example("none", kdtool.Text("one line only"), split="test"),
    ]
    run = make_run(folder, {"any": OneRuntime(runtime)}, examples)
    evaluator = LineCompletion(LineCompletion.Config(**settings))
    return {found.name: found for found in evaluator.kdtool_evaluate(run, [SUBJECT])}


def test_documents_are_items_and_weigh_as_many_as_they_have_places(tmp_path: Path) -> None:
    runtime = Knowing()
    found = evaluate(tmp_path, runtime)
    exact = found["line-completion.exact-match"]
    assert (exact.value, exact.n) == (0.5, 2)
    assert exact.items is not None
    rows = {row["item"]: row for row in map(json.loads, exact.items.read_text("utf-8").splitlines())}
    assert {name: (row["sum"], row["weight"]) for name, row in rows.items()} == {"long": (1, 3), "short": (1, 1)}
    assert exact.settings["places"].startswith("4, at most 4 per document")
    assert found["line-completion.edit-similarity"].value >= 0.5
    assert {(request.stop, request.temperature, request.turns) for request in runtime.asked} == {(("\n",), 0.0, ())}


def test_a_gap_is_sent_with_the_text_on_both_sides(tmp_path: Path) -> None:
    runtime = Knowing()
    found = evaluate(tmp_path, runtime, suffix=12)
    sent = {(request.prompt.rpartition("\n")[2], request.suffix) for request in runtime.asked}
    assert ("    return", "\n\n\nclass Box") in sent
    assert ("return", "\n") in sent
    assert "12 characters after the line" in found["line-completion.exact-match"].settings["suffix"]


def test_a_split_without_places_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"line-completion\.split: 'validation' has no document of several"):
        evaluate(tmp_path, Knowing(), split="validation")

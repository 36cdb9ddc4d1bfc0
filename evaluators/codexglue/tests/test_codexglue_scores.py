"""Scores against cases worked by hand, and against the samples of CodeXGLUE's evaluators where they are."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_evaluator_codexglue._lines import edit_similarity, exact_match, restore_literals, statement
from kdtool_evaluator_codexglue._tokens import correct_tokens

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "codexglue"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="CodeXGLUE's samples are not here")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = <NUM_LIT:1>", "x = 1"),
        ("x = <NUM_LIT>", "x = 0"),
        ('f ( "<STR_LIT>" , "<STR_LIT:utf-8>" )', 'f ( "" , "utf-8" )'),
        ("'<CHAR_LIT:a>' '<CHAR_LIT>'", "'a' ''"),
    ],
)
def test_literals_are_restored(code: str, expected: str) -> None:
    assert restore_literals(code) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" . size ( ) ; return", ". size ( ) ;"),
        ("} else { x", "}"),
        ("> a ) { int b ; }", "> a )"),
        ('"a;b{c" ) ; d', '"a;b{c" ) ;'),
        ("no end", "no end"),
        ("", ""),
    ],
)
def test_a_line_of_java_ends_with_its_statement(text: str, expected: str) -> None:
    assert statement(text) == expected


def test_scores_of_lines_are_those_worked_by_hand() -> None:
    assert edit_similarity("a<NUM_LIT:12>", "a12b") == 86  # 100 · 2 · 3 / 7 = 85.7
    assert exact_match("x  = <NUM_LIT:1>\n", "x = 1") == 1
    assert exact_match("x =1", "x = 1") == 0


@needs_samples
def test_lines_of_the_sample_score_as_codexglue_says() -> None:
    answers = (SAMPLES / "line_completion_java_answers_sample.json").read_text("utf-8").splitlines()
    lines = (SAMPLES / "line_completion_java_predictions_sample.txt").read_text("utf-8").splitlines()
    pairs = [(line, json.loads(answer)["gt"]) for line, answer in zip(lines, answers, strict=True)]
    assert mean(edit_similarity(*pair) for pair in pairs) == pytest.approx(43.8)
    assert mean(exact_match(*pair) for pair in pairs) == 0


def counts(text: str, pieces: list[str], predicted: list[str]) -> tuple[int, int]:
    same = [one == other for one, other in zip(pieces, predicted, strict=True)]
    return correct_tokens(text, [one.encode() for one in pieces], [one.encode() for one in predicted], same)


@pytest.mark.parametrize(
    ("pieces", "predicted", "correct"),
    [
        (["a", " bc", " d"], ["a", " bc", " d"], 3),
        (["a", " bc", " d"], ["x", "bc", " d"], 2),  # without its space it is the same word
        (["a", " b", "c", " d"], ["a", " bc", " x", " d"], 3),  # the word is whole, what follows it is not looked at
        (["a", " b", "c", " d"], ["a", " b", " c", " d"], 2),  # two words
        (["a", " b", "c", " d"], ["a", " bc", "", " d"], 2),  # a special token in the word
        (["a", " ", "bc", " d"], ["a", "x", "bc", " d"], 2),
        (["a b", "c d"], ["a b", "c d"], 3),  # tokens that belong to two words
    ],
)
def test_tokens_are_right_whole_or_not_at_all(pieces: list[str], predicted: list[str], correct: int) -> None:
    assert counts("a bc d", pieces, predicted) == (correct, 3)


def test_marks_of_the_data_are_not_asked_for() -> None:
    assert counts("a <EOL> b", ["a", " <EOL>", " b"], ["a", " x", " b"]) == (2, 2)
    assert counts("<s> <pad> </s>", ["<s> <pad> </s>"], ["x"]) == (0, 0)


@given(st.lists(st.sampled_from(["ab", "ä", "(", "<EOL>", "x_1"]), min_size=1, max_size=8), st.data())
def test_all_is_right_that_is_predicted_right_however_it_is_divided(tokens: list[str], data: st.DataObject) -> None:
    text = " ".join(tokens)
    content = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(content) - 1)))))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    asked = len(tokens) - tokens.count("<EOL>")
    assert correct_tokens(text, pieces, pieces, [True] * len(pieces)) == (asked, asked)
    assert correct_tokens(text, pieces, [b""] * len(pieces), [False] * len(pieces)) == (0, asked)

"""Rows of preferences: the suite of packers, what a row holds, what is cut or left out and said."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_essentials.packed import Packed, Pairs
from kdtool_testing import ByteTokenizer, PackerConformance, make_run

END = ByteTokenizer.end_of_text


class TestPairs(PackerConformance):
    component = Pairs
    entry_point = "pairs"
    settings: ClassVar = {"length": 128}
    forms: ClassVar = (kdtool.Preference,)
    repeats: ClassVar = 6


def packed(*bodies: kdtool.Preference, length: int = 32) -> tuple[list[kdtool.Row], list[str]]:
    said: list[str] = []
    run = make_run(Path(), say=said.append)
    examples = [kdtool.Example(f"e{i}", body) for i, body in enumerate(bodies)]
    return list(Pairs(Pairs.Config(length=length)).kdtool_rows(run, examples, ByteTokenizer())), said


def test_a_pair_by_hand() -> None:
    (row,), said = packed(kdtool.Preference("ab", "c", "de"), length=11)
    assert list(row.input_ids) == [97, 98, 99, END, 97, 98, 100, 101, END, END, END]
    assert list(row.labelled) == [False, False, True, True, False, False, True, True, True, False, False]
    assert list(row.document) == [0, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1]
    assert list(row.columns["rejected"]) == [0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert said == []


texts = st.text("abc", max_size=12)


@given(texts, texts, texts, st.integers(4, 40))
def test_answers_are_whole_and_prompts_lose_their_beginning_or_the_pair_is_left_out(
    prompt: str, chosen: str, rejected: str, length: int
) -> None:
    rows, said = packed(kdtool.Preference(prompt, chosen, rejected), length=length)
    room = (length - len(chosen) - len(rejected) - 2) // 2
    if not rows:
        assert room < 1 or not prompt or chosen == rejected
        assert "1 of 1 left out" in said[0]
        return
    (row,) = rows
    assert len(row.input_ids) == length
    kept = prompt[-room:]
    real = [token for token, number in zip(row.input_ids, row.document, strict=True) if number >= 0]
    assert real == [*(kept + chosen).encode(), END, *(kept + rejected).encode(), END]
    assert bool(said) == (len(kept) < len(prompt))


def test_other_examples_are_refused_with_the_way_out() -> None:
    pair = kdtool.Example("solution-7", kdtool.Completion("a", "b"), source="solutions.jsonl")
    rows = Pairs(Pairs.Config()).kdtool_rows(make_run(Path()), [pair], ByteTokenizer())
    with pytest.raises(
        kdtool.UsageError, match=r"'solution-7' of solutions\.jsonl is not one; .*`rows: \{use: packed\}`"
    ):
        list(rows)


def test_packed_learns_the_chosen_answer_of_a_preference() -> None:
    packer, run = Packed(Packed.Config(length=16)), make_run(Path())
    found, expected = (
        list(packer.kdtool_rows(run, [kdtool.Example("e", body)], ByteTokenizer()))
        for body in (kdtool.Preference("ab", "c", "wrong"), kdtool.Completion("ab", "c"))
    )
    assert found == expected

"""The packer: its suite, nothing lost between documents and rows, what is learned, and the limit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool.testing import ByteTokenizer, PackerConformance, make_run
from kdtool_packer_packed import Packed

END = ByteTokenizer.end_of_text


class TestPacked(PackerConformance):
    component = Packed
    entry_point = "packed"
    settings: ClassVar = {"length": 64}


class TestShortRows(PackerConformance):
    component = Packed
    entry_point = "packed"
    settings: ClassVar = {"length": 7}


def rows(examples: list[kdtool.Example], **settings: Any) -> list[kdtool.Row]:
    packer = Packed(Packed.Config(**settings))
    return list(packer.kdtool_rows(make_run(Path()), examples, ByteTokenizer()))


def texts(*bodies: str) -> list[kdtool.Example]:
    return [kdtool.Example(f"e{i}", kdtool.Text(body)) for i, body in enumerate(bodies)]


@given(st.lists(st.text(max_size=40), max_size=12), st.integers(2, 30))
def test_documents_are_cut_and_nothing_is_lost(bodies: list[str], length: int) -> None:
    stream = [(i, token) for i, body in enumerate(bodies) if body for token in (*body.encode(), END)]
    expected = []
    for start in range(0, len(stream), length):
        piece = stream[start : start + length]
        numbers = [number for number, _ in piece]
        if any(before == after for before, after in pairwise(numbers)):
            order = sorted(set(numbers))
            expected.append([(order.index(number), token) for number, token in piece])
    found = [list(zip(row.document, row.input_ids, strict=True)) for row in rows(texts(*bodies), length=length)]
    assert [[(number, token) for number, token in row if number >= 0] for row in found] == expected
    assert all(len(row) == length for row in found)


def test_the_last_row_is_padded_and_padding_is_not_learned() -> None:
    (row,) = rows(texts("ab"), length=5)
    assert list(row.input_ids) == [97, 98, END, END, END]
    assert list(row.document) == [0, 0, 0, -1, -1]
    assert list(row.labelled) == [True, True, True, False, False]


def test_a_completion_is_learned_with_its_end() -> None:
    (row,) = rows([kdtool.Example("c", kdtool.Completion("ab", "cd"))], length=6)
    assert list(row.labelled) == [False, False, True, True, True, False]


def test_conversations_follow_the_documented_template() -> None:
    talk = kdtool.Messages((("user", "hi"), ("assistant", "yes")))
    (row,) = rows([kdtool.Example("m", talk)], length=40)
    real = [token for token, number in zip(row.input_ids, row.document, strict=True) if number >= 0]
    assert bytes(real[:-1]).decode() == "### user\nhi\n\n### assistant\nyes"
    assert bytes(t for t, learned in zip(real[:-1], row.labelled, strict=False) if learned) == b"yes"
    assert (real[-1], row.labelled[len(real) - 1]) == (END, True)


def test_rows_without_anything_to_learn_are_left_out() -> None:
    long_prompt = kdtool.Example("c", kdtool.Completion("p" * 20, "c"))
    found = rows([long_prompt], length=8)
    assert len(found) == 1
    assert rows([kdtool.Example("m", kdtool.Messages((("user", "hello there"),)))], length=8) == []


def test_a_limit_takes_whole_rows_from_the_start() -> None:
    examples = texts("x = 1\n" * 50)
    limited = rows(examples, length=10, maximum_tokens=39)
    assert limited == rows(examples, length=10)[:3]
    with pytest.raises(pydantic.ValidationError, match="less than one row"):
        Packed.Config(length=10, maximum_tokens=9)

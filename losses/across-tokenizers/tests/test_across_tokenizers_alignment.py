"""Alignment of positions: any two ways of cutting any texts, against trying all pairs."""

from __future__ import annotations

from dataclasses import replace

import kdtool
import pytest
from cut_texts import Document, Text, same_reading, shortest_spans, view_of
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_across_tokenizers._alignment import Spans, meetings, spans


@st.composite
def documents(draw: st.DrawFn, size: int) -> Document:
    """Draw a way of cutting `size` bytes, with masked and special tokens."""
    inner = draw(st.sets(st.integers(1, size - 1), max_size=size - 1)) if size > 1 else set()
    numbers = st.sets(st.integers(0, len(inner)), max_size=2)
    masked, marked = draw(numbers), draw(numbers)
    return Document((0, *sorted(inner), size), frozenset(masked), frozenset(marked), draw(st.booleans()))


@st.composite
def texts(draw: st.DrawFn) -> tuple[Text, Text]:
    """Draw up to three rows of up to three documents, cut in two ways; the second way may lack a document."""
    own, other = [], []
    for _ in range(draw(st.integers(1, 3))):
        sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
        own.append([draw(documents(size)) for size in sizes])
        cut = [draw(documents(size)) for size in sizes]
        lost = draw(st.integers(0, 9))
        other.append([Document((0, 1), frozenset({0})) if n == lost else document for n, document in enumerate(cut)])
    return own, other


def listed(side: Spans) -> list[list[int]]:
    numbers = side.numbers.tolist()
    ends = side.lengths.cumsum(0).tolist()
    return [numbers[end - length : end] for end, length in zip(ends, side.lengths.tolist(), strict=True)]


@given(texts())
def test_meetings_are_all_pairs_that_have_read_the_same(cut: tuple[Text, Text]) -> None:
    view = view_of(*cut)
    own, other = meetings(view)
    assert sorted(zip(own.tolist(), other.tolist(), strict=True)) == sorted(same_reading(view))


@given(texts())
def test_spans_are_the_shortest_that_both_have(cut: tuple[Text, Text]) -> None:
    view = view_of(*cut)
    own, other = spans(view)
    found = list(zip(listed(own), listed(other), strict=True))
    assert sorted(found) == sorted(shortest_spans(view))
    for side in (own, other):
        assert len(set(side.numbers.tolist())) == len(side.numbers), "no token is in two spans"
    assert own.last.tolist() == [numbers[-1] for numbers in listed(own)]


def test_one_vocabulary_meets_everywhere_and_needs_no_columns() -> None:
    view = view_of([[Document((0, 1, 4, 6)), Document((0, 2, 3))]])
    view = replace(view, batch=replace(view.batch, columns={}))
    own, other = meetings(view)
    assert own.tolist() == other.tolist() == [0, 1, 2]
    assert listed(spans(view)[0]) == [[0], [1], [2]]


def test_rows_without_the_columns_are_refused() -> None:
    view = view_of([[Document((0, 1, 4))]], [[Document((0, 2, 4))]])
    view = replace(view, batch=replace(view.batch, columns={"byte_end": view.batch.labels}))
    with pytest.raises(kdtool.PluginError, match="the student's rows lack the columns byte_start"):
        meetings(view)

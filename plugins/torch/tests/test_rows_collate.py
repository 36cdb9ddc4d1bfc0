"""`collate` against plain loops over tokens."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import kdtool
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_torch import NO_LABEL, collate


@st.composite
def rows_of_documents(draw: st.DrawFn) -> list[kdtool.Row]:
    length = draw(st.integers(1, 12))
    rows = []
    for number in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(1, 5), min_size=0, max_size=6))
        document = [index for index, size in enumerate(lengths) for _ in range(size)][:length]
        document += [-1] * (length - len(document))
        ids = draw(st.lists(st.integers(0, 200_000), min_size=length, max_size=length))
        labelled = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        classes = draw(st.lists(st.integers(0, 5), min_size=length, max_size=length))
        rows.append(kdtool.Row(f"row{number}", ids, labelled, document, {"syntax": classes}))
    return rows


@given(rows_of_documents())
def test_every_token_is_as_a_plain_loop_says(rows: list[kdtool.Row]) -> None:
    batch = collate(rows)
    assert batch.document.dtype == torch.int32
    assert {tensor.dtype for tensor in (batch.input_ids, batch.positions, batch.labels)} == {torch.int64}
    assert batch.row_keys == tuple(row.key for row in rows)
    for b, row in enumerate(rows):
        position = 0
        for i, token in enumerate(row.input_ids):
            position = position + 1 if i and row.document[i] == row.document[i - 1] else 0
            label, syntax, j = NO_LABEL, 0, i + 1
            if j < len(row.input_ids) and row.document[j] == row.document[i] >= 0 and row.labelled[j]:
                label, syntax = row.input_ids[j], row.columns["syntax"][j]
            assert batch.input_ids[b, i] == token
            assert batch.positions[b, i] == position
            assert batch.labels[b, i] == label
            assert batch.columns["syntax"][b, i] == syntax
            assert batch.document[b, i] == row.document[i]


@pytest.mark.parametrize("form", [tuple, lambda v: array.array("q", v), lambda v: np.array(v, dtype=np.int32)])
def test_rows_may_come_as_any_sequence(form: Callable[[list[int]], Any]) -> None:
    read_only = form([5, 6, 7, 8])
    if isinstance(read_only, np.ndarray):
        read_only.setflags(write=False)
    row = kdtool.Row("a", read_only, form([1, 1, 0, 1]), form([0, 0, 0, 0]))
    assert collate([row]).labels.tolist() == [[6, NO_LABEL, 8, NO_LABEL]]


def test_rows_that_do_not_fit_together_are_refused_by_name() -> None:
    long, short = kdtool.Row("long", [1, 2], [True] * 2, [0, 0]), kdtool.Row("short", [1], [True], [0])
    with pytest.raises(kdtool.PluginError, match=r"'short'.*'long'"):
        collate([long, short])
    with pytest.raises(kdtool.PluginError, match="torn"):
        collate([kdtool.Row("torn", [1, 2], [True], [0, 0])])
    with pytest.raises(kdtool.PluginError, match="columns"):
        collate([long, kdtool.Row("other", [1, 2], [True] * 2, [0, 0], {"syntax": [1, 1]})])
    with pytest.raises(ValueError, match="at least one"):
        collate([])

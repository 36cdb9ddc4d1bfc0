"""`collate` against plain loops over tokens.

Facts about a batch are computed in main memory, once, wherever the batch is.

Log-probabilities of tokens that the student chose, from a teacher's states and head.

The terms of a phase on rows: values, weights and refusals.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing import ListSource, make_run
from kdtool_testing.phase import companions, make_phase
from kdtool_testing.toy.runtime import toy_model
from kdtool_torch import NO_LABEL, chosen_tokens, collate, label_index, move, select_at_labels
from kdtool_torch.batch import document_bounds, original_of
from kdtool_torch.objective import Objective


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


META = torch.device("meta")


def batch() -> kdtool.Batch:
    """Return two rows: documents of three and two tokens with one of padding, and one of six."""
    documents = [[0, 0, 0, 1, 1, -1], [0] * 6]
    rows = [kdtool.Row(str(n), range(6), [i != 1 for i in range(6)], ids) for n, ids in enumerate(documents)]
    return collate(rows)


def test_labels_are_selected_row_by_row_with_their_gradient() -> None:
    rows = batch()
    with torch.inference_mode():  # as a teacher may, before the student runs
        assert label_index(rows).tolist() == (rows.labels.flatten() != -100).nonzero().flatten().tolist()
    values = torch.arange(24.0).view(2, 6, 2).requires_grad_()
    selected = select_at_labels(values, rows)
    assert torch.equal(selected, values[rows.labels != -100])
    selected.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad[..., 0] > 0, rows.labels != -100)


def test_a_run_of_padding_is_one_document() -> None:
    rows = batch()
    bounds, longest = document_bounds(rows.positions, rows.document)
    assert bounds.tolist() == [0, 3, 5, 6, 12]
    assert (bounds.dtype, longest) == (torch.int32, 6)
    positions = torch.tensor([[0, 1, 0, 1, 2, *[0] * 500], [0, 1, 2, *range(502)]])
    document = torch.tensor([[0, 0, 1, 1, 1, *[-1] * 500], [0, 0, 0, *[-1] * 502]])
    bounds, longest = document_bounds(positions, document)
    assert bounds.tolist() == [0, 2, 5, 505, 508, 1010]
    assert longest == 502


def test_a_batch_elsewhere_is_described_without_reading_it() -> None:
    rows = batch()
    moved = move(rows, META)
    assert original_of(moved.labels) is rows.labels
    assert label_index(moved).shape == label_index(rows).shape  # values on this device cannot be read
    assert label_index(moved).device == META
    bounds, longest = document_bounds(moved.positions, moved.document)
    assert (bounds.device, bounds.shape, longest) == (META, (5,), 6)
    again = move(replace(moved, turns=(1, 1)), META)
    assert original_of(again.labels) is rows.labels


def test_projections_of_a_signal_are_moved_too() -> None:
    states = kdtool.Projections(*torch.zeros(3, 1, 2, 4).unbind())
    moved = move(kdtool.Signal("a", projections={0: states}), META)
    assert moved.projections[0].keys.device == META


def lazy(positions: int = 700) -> kdtool.LazyLogits:
    torch.manual_seed(3)
    head = kdtool.Head(torch.randn(40, 8), 37, torch.randn(40), scale=0.7, soft_cap=20.0)
    return kdtool.LazyLogits(torch.randn(positions, 8), head)


def test_they_are_the_logarithms_of_the_softmax_at_the_temperature() -> None:
    teacher, ids = lazy(), torch.randint(0, 37, (700, 5), dtype=torch.int32)
    ids[3, 2:] = -1
    found = chosen_tokens(teacher, kdtool.SignalRequest(frozenset({"chosen"}), (), 2.0, ids))
    expected = (teacher.head.logits(teacher.hidden).double() / 2.0).log_softmax(-1).gather(-1, ids.clamp(min=0).long())
    torch.testing.assert_close(found.log_probabilities, expected.masked_fill(ids < 0, 0).float())
    assert found.ids is ids
    assert found.temperature == 2.0


@pytest.mark.parametrize("ids", [None, torch.zeros(3, 2, dtype=torch.int32)])
def test_a_request_without_a_row_for_each_label_is_refused(ids: torch.Tensor | None) -> None:
    with pytest.raises(kdtool.PluginError, match="one row of token ids for each of 700 labels"):
        chosen_tokens(lazy(), kdtool.SignalRequest(frozenset({"chosen"}), chosen=ids))


def objective_of(folder: Path, **changes: object) -> Objective:
    phase = replace(make_phase(folder, 8), **changes)  # type: ignore[arg-type]
    return Objective(make_run(folder / "run", companions(), say=lambda _: None), phase, toy_model(1))


def test_a_row_without_labels_has_no_terms_and_no_nan(tmp_path: Path) -> None:
    phase = make_phase(tmp_path, 8)
    none = [replace(phase.rows[0], labelled=[False] * phase.rows.length)]
    objective = objective_of(tmp_path, rows=ListSource(none))
    loss, tokens = objective.loss([0], 1)
    assert (loss.item(), tokens, objective.state.reports) == (0.0, 0, {})
    assert not torch.isnan(loss)


def test_a_phase_without_rows_is_refused(tmp_path: Path) -> None:
    rows = ListSource([make_phase(tmp_path, 8).rows[0]])
    rows.rows = []
    with pytest.raises(kdtool.UsageError, match="has no rows"):
        objective_of(tmp_path, rows=rows)

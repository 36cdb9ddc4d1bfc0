"""Facts about a batch are computed in main memory, once, wherever the batch is."""

from __future__ import annotations

from dataclasses import replace

import kdtool
import torch
from kdtool_torch import collate, compute_on_host, label_index, move, select_at_labels
from kdtool_torch.batch import document_bounds, original_of
from torch import Tensor

META = torch.device("meta")
calls: list[Tensor] = []


def batch() -> kdtool.Batch:
    """Return two rows: documents of three and two tokens with one of padding, and one of six."""
    documents = [[0, 0, 0, 1, 1, -1], [0] * 6]
    rows = [kdtool.Row(str(n), range(6), [i != 1 for i in range(6)], ids) for n, ids in enumerate(documents)]
    return collate(rows)


def count(labels: Tensor, *, more: int) -> Tensor:
    calls.append(labels)
    return torch.tensor(int((labels >= 0).sum()) + more)


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


def test_rows_collated_onto_a_device_are_remembered() -> None:
    rows = batch()
    assert label_index(collate([kdtool.Row("a", range(3), [True] * 3, [0] * 3)], META)).shape == (2,)
    assert label_index(rows).device.type == "cpu"


def test_what_is_known_is_not_computed_again_except_for_other_labels_or_settings() -> None:
    calls.clear()
    rows = batch()
    assert int(compute_on_host(count, rows.labels, more=1)) == int(compute_on_host(count, rows.labels, more=1))
    assert len(calls) == 1
    compute_on_host(count, rows.labels, more=2)
    compute_on_host(count, rows.labels.clone(), more=1)
    assert len(calls) == 3


def test_projections_of_a_signal_are_moved_too() -> None:
    states = kdtool.Projections(*torch.zeros(3, 1, 2, 4).unbind())
    moved = move(kdtool.Signal("a", projections={0: states}), META)
    assert moved.projections[0].keys.device == META

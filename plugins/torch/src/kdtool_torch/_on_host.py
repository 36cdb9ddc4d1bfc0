"""Facts about a batch that are computed in main memory, so that no GPU waits: indices of labels, bounds of documents.

A shape or an index that depends on values makes the program wait for all that a GPU has still to do. `collate` makes batches
in main memory, and `move` remembers which tensor a copy was made from. So such facts are computed from the original, once
for each tensor, and only their result is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from kdtool_torch._batches import NO_LABEL
from kdtool_torch._moved import move, original_of

if TYPE_CHECKING:
    import kdtool
    from torch import Tensor

__all__ = ["batch_rows", "compute_on_host", "document_bounds", "is_labelled", "label_index", "select_at_labels"]

T = TypeVar("T")


def compute_on_host(function: Callable[..., T], *tensors: Tensor, **settings: Hashable) -> T:
    """Return `function(*tensors, **settings)`, computed in main memory, with its tensors on the device of the arguments.

    It is computed once for the same tensors, until the first of them is dropped: do not change them in place. Tensors that
    `move` did not bring to their device are copied, and a GPU waits for that.

    Args:
        function: a function of a module; returns a tensor, or tensors and numbers in tuples.
        tensors: one or more, on one device.
        settings: further arguments.
    """
    import torch

    known: dict[Any, Any] = _results().setdefault(tensors[0], {})
    key = (function, *map(id, tensors[1:]), *sorted(settings.items()))
    if key not in known:
        with torch.inference_mode(mode=False):  # autograd may keep the result, though a teacher may be the first to ask
            result = move(function(*map(original_of, tensors), **settings), tensors[0].device)
        known[key] = result, tensors[1:]  # kept alive, so that no other tensor gets their numbers
    computed: T = known[key][0]
    return computed


def batch_rows(batch: kdtool.Batch, rows: Sequence[int]) -> kdtool.Batch:
    """Return only these rows of a batch, on its device."""
    import torch

    only = torch.tensor(rows)

    def of(tensor: Tensor) -> Tensor:
        return move(original_of(tensor)[only], tensor.device)

    return replace(
        batch,
        input_ids=of(batch.input_ids),
        positions=of(batch.positions),
        labels=of(batch.labels),
        document=of(batch.document),
        row_keys=tuple(batch.row_keys[row] for row in rows),
        turns=tuple(batch.turns[row] for row in rows) if batch.turns else (),
        columns={name: of(column) for name, column in batch.columns.items()},
    )


def label_index(batch: kdtool.Batch) -> Tensor:
    """Return the N labelled positions of a batch as indices into its flattened [B · L], [N] int64, row-major."""
    return compute_on_host(_label_index, batch.labels)


def is_labelled(batch: kdtool.Batch) -> Tensor:
    """Return which positions of a batch have a label, [B, L] bool."""
    return compute_on_host(_is_labelled, batch.labels)


def select_at_labels(values: Tensor, batch: kdtool.Batch) -> Tensor:
    """Return values [B, L, …] at the N labelled positions, [N, …], row-major, with gradient."""
    return values.flatten(0, 1).index_select(0, label_index(batch))


def document_bounds(positions: Tensor, document: Tensor) -> tuple[Tensor, int]:
    """Return the cumulative lengths of all documents of a batch, int32 from 0 to B · L, and the greatest length.

    Args:
        positions: [B, L], restarting at 0 with each document.
        document: [B, L], negative on padding. A run of padding is one document: for each sequence flash attention has a tile
            of work and, for backward, 128 rows of memory.
    """
    return compute_on_host(_document_bounds, positions, document)


@cache
def _results() -> Any:
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()


def _is_labelled(labels: Tensor) -> Tensor:
    return labels != NO_LABEL


def _label_index(labels: Tensor) -> Tensor:
    return (labels.flatten() != NO_LABEL).nonzero().flatten()


def _document_bounds(positions: Tensor, document: Tensor) -> tuple[Tensor, int]:
    import torch

    padding = document < 0
    begins = (positions == 0) & ~padding
    begins[:, 1:] |= padding[:, 1:] & ~padding[:, :-1]
    begins[:, 0] = True
    starts = begins.flatten().nonzero().flatten()
    bounds = torch.cat([starts, starts.new_tensor([positions.numel()])])
    return bounds.to(torch.int32), int(bounds.diff().max())

"""Batches: rows of tokens as tensors on any device, the positions that token losses use, and the documents within rows.

Labels are shifted and positions counted in `collate`, and nowhere else.

A shape or an index that depends on values makes the program wait for all that a GPU has still to do. `collate` makes
batches in main memory, and `move` remembers which tensor a copy was made from. So indices of labels, bounds of documents
and their blocks and masks for attention are computed from the original, and only their result is copied.

Token losses see all labelled positions except those that predict rejected text, which the student should avoid; the
number of these positions is their divisor. Losses of whole rows see every position. Rows without a column `rejected`
pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import kdtool

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NO_LABEL = -100
"""The label of a position that predicts nothing, as in `torch.nn.functional.cross_entropy`."""


def collate(rows: Sequence[kdtool.Row], device: str | torch.device | None = None) -> kdtool.Batch:
    """Make a batch of B rows of L tokens each.

    `labels[b, i]` is token i + 1 where that token is labelled and belongs to the document of token i; elsewhere, such as at
    a document's last token and on padding, it is `NO_LABEL`. `positions` restart at 0 with each document and with padding.
    `columns` describe the predicted token, as labels do: `columns[name][b, i]` is the row's entry i + 1, and 0
    where there is no label.

    Args:
        rows: at least one; all of one length, with the same columns.
        device: where the tensors go; None leaves them on the CPU.
    """
    import torch

    ids = _tensor([row.input_ids for row in rows], torch.int64)
    document = _tensor([row.document for row in rows], torch.int32)
    labelled = _tensor([row.labelled for row in rows], torch.bool)
    same_document = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    predicts = torch.zeros_like(labelled)
    predicts[:, :-1] = labelled[:, 1:] & same_document
    columns = {name: _tensor([row.columns[name] for row in rows], torch.int64) for name in rows[0].columns}
    batch = kdtool.Batch(
        input_ids=ids,
        positions=_positions(document),
        labels=_of_next_token(ids, predicts, NO_LABEL),
        document=document,
        row_keys=tuple(row.key for row in rows),
        columns={name: _of_next_token(column, predicts, 0) for name, column in columns.items()},
        turns=tuple(row.turn for row in rows),
    )
    return batch if device is None else move(batch, torch.device(device))


def _tensor(sequences: list[Any], dtype: torch.dtype) -> Tensor:
    import torch

    return torch.stack([torch.tensor(sequence, dtype=dtype) for sequence in sequences])


def _positions(document: Tensor) -> Tensor:
    """Count tokens since the last change of document, [B, L] int64."""
    import torch

    index = torch.arange(document.shape[1]).expand(document.shape)
    begins = torch.ones_like(document, dtype=torch.bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values


def _of_next_token(values: Tensor, predicts: Tensor, otherwise: int) -> Tensor:
    import torch

    return torch.where(predicts, values.roll(-1, dims=1), otherwise)


T = TypeVar("T")


def move(value: T, device: torch.device) -> T:
    """Return a record of tensors, also nested ones, on `device`; tensors that are there already are not copied.

    Copies to a GPU are made from pinned memory and only queued: what is computed from them there waits by itself. The main
    memory does not wait for a GPU, so a copy to it does.
    """
    return map_tensors(lambda tensor: _copy(tensor, device), value)


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """Return a record with `function` of each of its tensors, also in nested mappings, tuples and dataclasses."""
    import torch

    mapped: Any = value
    if isinstance(value, torch.Tensor):
        mapped = function(value)
    elif isinstance(value, Mapping):
        mapped = {key: map_tensors(function, item) for key, item in value.items()}
    elif isinstance(value, tuple):
        items = [map_tensors(function, item) for item in value]
        mapped = type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    elif is_dataclass(value) and not isinstance(value, type):
        mapped = replace(
            value, **{field.name: map_tensors(function, getattr(value, field.name)) for field in fields(value)}
        )
    result: T = mapped
    return result


def copy_to_host(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Start to copy tensors to main memory, and return a function that waits for the copies and returns them.

    It can be called in another thread. All tensors are on one device, and are copied on a CPU too.
    """
    import torch

    copies = [tensor.detach().to("cpu", non_blocking=tensor.is_cuda, copy=True) for tensor in tensors]
    copied = None
    if tensors and tensors[0].is_cuda:
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(tensors[0].device))

    def wait() -> list[Tensor]:
        if copied is not None:
            copied.synchronize()
        return copies

    return wait


def original_of(tensor: Tensor) -> Tensor:
    """Return the same values in main memory: the tensor that `move` copied, else a new copy, for which a GPU waits."""
    if tensor.device.type == "cpu":
        return tensor
    original: Tensor | None = _originals().get(tensor)
    return tensor.cpu() if original is None else original


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    copy = tensor.to(device, non_blocking=device.type != "cpu")
    original = tensor if tensor.device.type == "cpu" else _originals().get(tensor)
    if original is not None and copy.device.type != "cpu" and not tensor.is_floating_point():
        _originals()[copy] = original
    return copy


@cache
def _originals() -> Any:
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()


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


def loss_labels(labels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
    """Return the labels [B, L] of a batch, without those of rejected tokens."""
    rejected = columns.get("rejected")
    return labels if rejected is None else labels.masked_fill(rejected != 0, NO_LABEL)


def count_targets(batch: kdtool.Batch) -> int:
    """Return how many positions token losses see; for a batch in main memory, else a GPU waits."""
    return int((loss_labels(batch.labels, batch.columns) != NO_LABEL).sum())


def loss_mask(batch: kdtool.Batch) -> Tensor | None:
    """Return the numbers of those of the N labelled positions that token losses see, int64; None if they see all."""
    rejected = batch.columns.get("rejected")
    return None if rejected is None else compute_on_host(_find_targets, batch.labels, rejected)


def select(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return values [N, …] at the positions of a mask; None leaves them as they are."""
    return values if mask is None else values.index_select(0, mask)


def _find_targets(labels: Tensor, rejected: Tensor) -> Tensor:
    return (rejected[labels != NO_LABEL] == 0).nonzero().flatten()


_QUERY_BLOCK = 128


_KEY_ALIGNMENT = 32


class Block(NamedTuple):
    """Queries `start:stop` see keys `first:stop`, all of them those before `checked`.

    `hidden` [B, 1, 1, stop - start, stop - checked] is True for hidden ones.
    """

    start: int
    stop: int
    first: int
    checked: int
    hidden: Tensor


class Documents:
    """Starts of the documents in rows: `start` [B, L] int64, the index in the row of the first token of a token's document.

    They are found from `positions` (restarting at 0 in each) and `document` (-1 on padding), [B, L] each. Each padding token
    is a separate document, so that its softmax is finite and other tokens do not see it.

    Blocks, masks and lengths are derived once per forward pass and sliding window, and shared by all layers.
    `attentions` collects attention maps of `wanted` layers, [B, heads, L, L], and `projections` the queries, keys and values
    of `projecting` layers as attention receives them, while `collecting`: layers that activation checkpointing computes a
    second time must take the same path, but collect nothing. Not a dataclass: FSDP2 copies dataclasses among a layer's
    arguments, and the tensors collected in a copy would be lost.
    """

    def __init__(
        self,
        positions: Tensor,
        document: Tensor,
        wanted: frozenset[int] = frozenset(),
        projecting: frozenset[int] = frozenset(),
    ) -> None:
        import torch

        index = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
        self.start = torch.where(document < 0, index, index - positions)
        self.wanted, self.projecting = wanted, projecting
        self._rows = positions, document
        self.collecting = True
        self.attentions: dict[int, Tensor] = {}
        self.projections: dict[int, kdtool.Projections] = {}
        self._blocks: dict[int | None, list[Block]] = {}
        self._masks: dict[int | None, Tensor] = {}
        self._elsewhere: dict[torch.device, Documents] = {}

    def on(self, device: torch.device) -> Documents:
        """Return the same documents for layers on another device; all collect into the same dictionaries."""
        if device == self.start.device:
            return self
        if device not in self._elsewhere:
            there = Documents(*move(self._rows, device), self.wanted, self.projecting)
            there.attentions, there.projections = self.attentions, self.projections
            self._elsewhere[device] = there
        return self._elsewhere[device]

    def stop_collecting(self) -> tuple[dict[int, Tensor], dict[int, kdtool.Projections]]:
        """Stop collecting, and return maps and projections; dropping them here avoids a cycle with the graph."""
        self.collecting = False
        taken = self.attentions, self.projections
        self.attentions, self.projections = {}, {}
        return taken

    def first_key(self, window: int | None) -> Tensor:
        """Return [B, L], the first key that each query sees."""
        import torch

        if window is None:
            return self.start
        index = torch.arange(self.start.shape[1], device=self.start.device)
        return torch.maximum(self.start, index - (window - 1))

    def blocks(self, window: int | None) -> list[Block]:
        """Return the blocks of queries with the keys each needs, computed once for each window."""
        import torch

        if window not in self._blocks:
            first_key, length = self.first_key(window), self.start.shape[1]
            index = torch.arange(length, device=self.start.device)
            starts = range(0, length, _QUERY_BLOCK)
            # First keys never fall along a row: a block's least and greatest are those of its first and last query.
            firsts = first_key[:, ::_QUERY_BLOCK].amin(dim=0).tolist()
            lasts = [first_key[:, min(start + _QUERY_BLOCK, length) - 1].amax() for start in starts]
            self._blocks[window] = [
                _block(start, min(start + _QUERY_BLOCK, length), first, int(last), first_key, index)
                for start, first, last in zip(starts, firsts, lasts, strict=True)
            ]
        return self._blocks[window]

    def mask(self, window: int | None) -> Tensor:
        """Return [B, 1, L, L], True where a query sees a key."""
        import torch

        if window not in self._masks:
            index = torch.arange(self.start.shape[1], device=self.start.device)
            seen = (index[None, None, :] <= index[None, :, None]) & (index >= self.first_key(window)[:, :, None])
            self._masks[window] = seen[:, None]
        return self._masks[window]

    def lengths(self) -> tuple[Tensor, int]:
        """Return the cumulative lengths of all documents of the batch, int32 from 0 to B·L, and the greatest length."""
        return document_bounds(*self._rows)


def _block(start: int, stop: int, first: int, last: int, first_key: Tensor, index: Tensor) -> Block:
    aligned = first - first % _KEY_ALIGNMENT
    # Where all queries begin to see at the same aligned key, only the triangle above the diagonal is hidden.
    checked = start if last <= aligned else aligned
    queries, keys = index[start:stop, None], index[None, checked:stop]
    hidden = (keys > queries) | (keys < first_key[:, start:stop, None])
    return Block(start, stop, aligned, checked, hidden[:, None, None])

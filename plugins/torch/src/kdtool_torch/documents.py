"""Documents within the rows of a batch: where they begin, and the blocks, masks and lengths that attention needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import kdtool

from kdtool_torch.batch import document_bounds, move

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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

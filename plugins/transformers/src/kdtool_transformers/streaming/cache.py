"""Keys and values of several texts that grow together, and join and leave at any token.

The last columns of all rows are their newest tokens; columns before a row's first token are padding, which the attention
mask hides. So every row writes into the same column, and a row that joins or leaves moves no other, unless the buffers are
too small.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_SPARE_COLUMNS = 256


class RowCache(Cache):  # type: ignore[misc]
    """A cache of attention layers whose rows can be added, taken away and copied."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_Rows)

    @property
    def bytes(self) -> int:
        """The memory of its buffers."""
        return sum(layer.key_buffer.nbytes + layer.value_buffer.nbytes for layer in self.layers if layer.is_initialized)

    def add(self, other: RowCache, length: int) -> None:
        """Copy the first `length` columns of the only row of another cache into a new row."""
        while len(self.layers) < len(other.layers):
            self.layers.append(_Rows())
        for rows, other_rows in zip(self.layers, other.layers, strict=True):
            rows.add(other_rows, length)

    def keep(self, rows: list[int], length: int) -> None:
        """Keep some rows, the longest of them with `length` columns: row `rows[i]` becomes row i, and i <= rows[i]."""
        for layer in self.layers:
            layer.keep(rows, length)

    def forget(self, columns: int) -> None:
        """Remove the last columns of all rows."""
        for layer in self.layers:
            layer.end -= columns


def new_cache(config: Any) -> RowCache | DynamicCache:
    """Return an empty cache for a model: of rows if all its layers attend, else as transformers keeps one text's states."""
    cache = DynamicCache(config=config)
    return RowCache() if {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer} else cache


class _Rows(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values: columns `begin` to `end` of `rows` rows of buffers [rows, heads, columns, D].

    It keeps all columns of a sliding window; the attention mask hides those before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.begin = self.end = 0

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self._start(keys, values)
        added = keys.shape[2]
        self._make_room(len(keys), self.end - self.begin, added)
        self.rows = len(keys)
        self.key_buffer[: self.rows, :, self.end : self.end + added] = keys
        self.value_buffer[: self.rows, :, self.end : self.end + added] = values
        self.end += added
        return self._view(self.key_buffer), self._view(self.value_buffer)

    def get_seq_length(self) -> int:
        return self.end - self.begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.end - self.begin + query_length, 0

    def add(self, other: _Rows, length: int) -> None:
        if not other.is_initialized:
            return
        if not self.is_initialized:
            self._start(other.key_buffer, other.value_buffer)
        longest = max(length, self.end - self.begin)
        self._make_room(self.rows + 1, longest, 0)
        for target, source in ((self.key_buffer, other.key_buffer), (self.value_buffer, other.value_buffer)):
            # Zeros, since NaN in a hidden column would spread.
            target[: self.rows, :, self.end - longest : self.begin] = 0
            target[self.rows, :, self.end - longest : self.end - length] = 0
            target[self.rows, :, self.end - length : self.end] = source[0, :, other.begin : other.begin + length]
        self.begin = self.end - longest
        self.rows += 1

    def keep(self, rows: list[int], length: int) -> None:
        for target, source in enumerate(rows):
            if source != target:
                for buffer in (self.key_buffer, self.value_buffer):
                    buffer[target, :, self.begin : self.end] = buffer[source, :, self.begin : self.end]
        self.rows, self.begin = len(rows), self.end - length

    def _start(self, keys: Tensor, values: Tensor) -> None:
        self.dtype, self.device = keys.dtype, keys.device
        self.key_buffer = keys.new_zeros(0, keys.shape[1], 0, keys.shape[3])
        self.value_buffer = keys.new_zeros(0, values.shape[1], 0, values.shape[3])
        self.is_initialized = True

    def _make_room(self, rows: int, length: int, added: int) -> None:
        """Make the buffers hold `rows` rows, with `length` columns up to `end` and `added` after it."""
        room, columns = self.key_buffer.shape[0], self.key_buffer.shape[2]
        if rows <= room and length <= self.end and self.end + added <= columns:
            return
        room = room if rows <= room else max(rows, 2 * room)
        self.key_buffer = self._move(self.key_buffer, room, length, added)
        self.value_buffer = self._move(self.value_buffer, room, length, added)
        self.begin, self.end = length - (self.end - self.begin), length

    def _move(self, buffer: Tensor, room: int, length: int, added: int) -> Tensor:
        used = self._view(buffer)
        # Zeros, since NaN in a hidden column would spread.
        moved = buffer.new_zeros(room, buffer.shape[1], length + added + _SPARE_COLUMNS, buffer.shape[3])
        moved[: len(used), :, length - used.shape[2] : length] = used
        return moved

    def _view(self, buffer: Tensor) -> Tensor:
        return buffer[: self.rows, :, self.begin : self.end]

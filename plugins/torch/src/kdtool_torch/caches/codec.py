"""A row's tokens and their values as bytes: likely tokens cost next to nothing.

A position's tokens are written as ascending ranks, each as its distance to the one before. The position's own label has
rank 0, since it is mostly among them; the others are ranked by the row's labels, the most frequent first. Readers of a
row have its labels, so the order itself is not stored. Lengths, distances and values are separate, byte by byte, and
each plane of bytes is compressed by zstd on its own. If the values of a position have a known sum (counts of samples),
the first one follows from the others and is left out. Independent of signals and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import zstandard
from numpy.typing import NDArray

LEVEL = 3
"""Of zstd: higher ones save less than they cost (docs/benchmarks/recording.md). Decoding does not depend on it."""
_SIZE = 4
"""Bytes of a number in a blob's head."""
Ints = NDArray[np.int64]


def encode(ids: Ints, values: Ints, labels: Ints, total: int | None = None, level: int = LEVEL) -> bytes:
    """Return a row's n positions as bytes.

    Args:
        ids: [n, K], distinct within a position, padded with -1; at least one token per position.
        values: [n, K] whole numbers from 1 up to 2³¹ − 1; 0 for padding.
        labels: [n]; pass the same ones to `decode`.
        total: the sum of every position's values; None if it varies.
        level: of zstd, from 1 to 22.
    """
    there, alone = ids >= 0, np.zeros_like(labels)
    lengths, columns = there.sum(1), np.arange(ids.shape[1])
    ranks = np.full(ids.shape, np.iinfo(np.int64).max)
    ranks[there] = Ranks(labels, alone).of(ids[there], np.zeros(int(lengths.sum()), np.int64)) + 1
    ranks[ids == labels[:, None]] = 0
    order = ranks.argsort(1, kind="stable")
    ranks, values = np.take_along_axis(ranks, order, 1), np.take_along_axis(values, order, 1)
    distances = np.diff(ranks, axis=1, prepend=-1) - 1
    within = columns < lengths[:, None]
    kept = within if total is None else within & (columns > 0)
    planes = [_planes(part, level) for part in (lengths, distances[within], values[kept] - 1)]
    head = np.array([len(lengths), *map(len, planes), *map(len, chain(*planes))], "<u4")
    return b"".join([head.tobytes(), *chain(*planes)])


def decode(
    blobs: Sequence[bytes], labels: Ints, total: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the input of `encode`, one row after the other: ids [N, K], padded with -1, and values, with 0.

    `labels` are those of all rows [N]. K is the greatest number of tokens in a position; they come in the order of ranks.

    Raises:
        ValueError: a blob was not encoded with these labels.
    """
    zstd = zstandard.ZstdDecompressor()  # one for each call: it must not be shared by threads
    rows = [_streams(blob, zstd) for blob in blobs]
    lengths, distances, stored = (np.concatenate([row[part] for row in rows]) for part in range(3))
    if len(lengths) != len(labels):
        raise ValueError(f"recorded positions: {len(lengths)}, labels: {len(labels)}")
    starts, within = lengths.cumsum() - lengths, np.arange(lengths.max(initial=0)) < lengths[:, None]
    ranks = (distances + 1).cumsum()
    ranks -= np.repeat(np.append(0, ranks)[starts] + 1, lengths)
    row_of = np.repeat(np.arange(len(rows)), [len(row[0]) for row in rows])
    others, tokens = ranks > 0, np.repeat(labels, lengths)
    tokens[others] = Ranks(labels, row_of).tokens(ranks[others] - 1, np.repeat(row_of, lengths)[others])
    numbers = stored + 1 if total is None else _restore_first_values(stored + 1, starts, len(ranks), total)
    ids, values = np.full(within.shape, -1, np.int32), np.zeros(within.shape, np.int32)
    ids[within], values[within] = tokens, numbers
    return ids, values


def _restore_first_values(later: Ints, starts: Ints, count: int, total: int) -> Ints:
    """Return all values, given those `later` than each position's first: the first is the rest of `total`."""
    values, first = np.zeros(count, np.int64), np.zeros(count, bool)
    first[starts] = True
    values[~first] = later
    if count:
        values[starts] = total - np.add.reduceat(values, starts)
    return values


def _planes(values: Ints, level: int) -> list[bytes]:
    """Return the values' lowest bytes, then the next higher ones, as far as there are any; each compressed."""
    planes = max(1, (int(values.max(initial=0)).bit_length() + 7) // 8)
    return [
        zstandard.compress((values >> 8 * plane & 255).astype(np.uint8).tobytes(), level) for plane in range(planes)
    ]


def _streams(blob: bytes, zstd: zstandard.ZstdDecompressor) -> list[Ints]:
    """Return a blob's lengths, distances and values."""
    count, *planes = np.frombuffer(blob, "<u4", 4).tolist()
    sizes = np.frombuffer(blob, "<u4", sum(planes), 4 * _SIZE)
    offset = (4 + len(sizes)) * _SIZE
    streams: list[Ints] = []
    taken = iter(sizes.tolist())
    for number in planes:
        parts = []
        for plane in range(number):
            size = next(taken)
            part = np.frombuffer(zstd.decompress(blob[offset : offset + size]), np.uint8).astype(np.int64)
            parts.append(part << 8 * plane if plane else part)
            offset += size
        streams.append(sum(parts[1:], parts[0]))
    if len(streams[0]) != count:
        raise ValueError(f"a row's header gives {count} positions, but the row holds {len(streams[0])}")
    return streams


_ROW = 1 << 40
"""Row and token as one number: row · _ROW + token."""


class Ranks:
    """The order of tokens in each of several rows: its U different labels by frequency, then token v with rank U + v.

    Args:
        labels: [N], those of all rows, one row after the other.
        rows: [N], ascending from 0: the row of each label.
    """

    def __init__(self, labels: Ints, rows: Ints) -> None:
        self._keys, counts = np.unique(rows * _ROW + labels, return_counts=True)
        row, tokens = np.divmod(self._keys, _ROW)
        starts = np.searchsorted(row, np.arange(int(rows.max(initial=-1)) + 2))
        self._starts, self._different = starts[:-1], np.diff(starts)
        self._order = np.lexsort((tokens, -counts, row))
        self._frequent = tokens[self._order]

    def of(self, tokens: Ints, rows: Ints) -> Ints:
        """Return the tokens' ranks in their rows, from 0."""
        keys = rows * _ROW + tokens
        place, ranks = np.searchsorted(self._keys, keys), tokens + self._different[rows]
        known = np.append(self._keys, -1)[place] == keys
        place_by_frequency = self._order.argsort()
        ranks[known] = place_by_frequency[place[known]] - self._starts[rows[known]]
        return np.asarray(ranks)

    def tokens(self, ranks: Ints, rows: Ints) -> Ints:
        """Return the tokens of these ranks in their rows: the inverse of `of`."""
        found = ranks - self._different[rows]
        known = found < 0
        found[known] = self._frequent[self._starts[rows[known]] + ranks[known]]
        return np.asarray(found)

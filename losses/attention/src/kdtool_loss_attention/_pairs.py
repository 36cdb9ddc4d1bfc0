"""Layers of student and teacher, compared in blocks of bounded size.

A block holds some labelled positions of a row and the positions that each of them sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from kdtool_torch import at_least_float32, compute_on_host

if TYPE_CHECKING:
    from torch import Tensor


BLOCK_VALUES = {"cpu": 2**22, "cuda": 2**24}
"""Numbers in one block of maps or relations, by device: 16 and 64 MB in float32; about six blocks are alive at once."""


class Block(NamedTuple):
    """Some labelled positions of one row, `queries` [Q], and the keys `first:stop` that they see.

    `seen` [Q, stop - first] is True where a query sees a key: at or before its own position, in its own document.
    """

    queries: Tensor
    first: int
    stop: int
    seen: Tensor


def by_block(
    function: Callable[[Tensor, Tensor, Block], Tensor],
    student: Tensor,
    teacher: Tensor,
    document: Tensor,
    labelled: Tensor,
    heads: int,
) -> Tensor:
    """Call `function` with a row of the student, the same of the teacher, and a block of its positions, block by block.

    A block is computed a second time in backward, so that only one is alive at a time, for any batch and length.

    Args:
        function: returns one value per query, [Q].
        student: [B, …]; a row is [1, …] without its first dimension.
        teacher: [B, …].
        document: [B, L] integers that number each row's documents.
        labelled: [B, L] bool.
        heads: numbers that a block holds for each pair of query and key.

    Returns:
        [N], the values of all labelled positions, row-major.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    students, teachers = student.unbind(), teacher.unbind()
    values = [torch.zeros(0, dtype=at_least_float32(student).dtype, device=student.device)]
    at_once = BLOCK_VALUES.get(student.device.type, BLOCK_VALUES["cpu"])
    size = max(1, at_once // (heads * document.shape[1]))
    for span in compute_on_host(_spans, document, labelled, size=size):
        block = _block(span, document[span.row])
        of_block = checkpoint(
            function, students[span.row], teachers[span.row], block, use_reentrant=False, preserve_rng_state=False
        )
        values.append(of_block)
    return torch.cat(values)


class _Span(NamedTuple):
    """Labelled positions `queries` [Q] of row number `row`; the keys that they see are in `first:stop`."""

    row: int
    queries: Tensor
    first: int
    stop: int


def _spans(document: Tensor, labelled: Tensor, *, size: int) -> tuple[_Span, ...]:
    return tuple(
        _Span(row, queries, int(first_keys[queries].min()), int(queries[-1]) + 1)
        for row, (first_keys, counted) in enumerate(zip(map(_first_keys, document), labelled, strict=True))
        for queries in counted.nonzero().flatten().split(size)
        if len(queries)
    )


def _first_keys(document: Tensor) -> Tensor:
    """Return the first position of each position's document, [L]."""
    number = document.unique(return_inverse=True)[1]  # type: ignore[no-untyped-call]
    index = number.new_ones(len(number)).cumsum(0) - 1
    firsts = index.new_full((len(index),), len(index)).scatter_reduce(0, number, index, "amin")
    first: Tensor = firsts[number]
    return first


def _block(span: _Span, document: Tensor) -> Block:
    """Return the block of a span in its row, whose documents are numbered by `document` [L]."""
    keys = document[span.first : span.stop]
    index = keys.new_ones(len(keys)).cumsum(0) - 1 + span.first
    seen = (index <= span.queries[:, None]) & (keys == document[span.queries, None])
    return Block(span.queries, span.first, span.stop, seen)

"""Counted positions and the positions that each of them sees, in blocks of bounded size. Used by both losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Block", "by_block", "in_single"]

BLOCK_VALUES = 2**22
"""Numbers in one block of maps or relations: 16 MB in float32; about six are alive at once."""


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

    values = [torch.zeros(0, dtype=in_single(student).dtype, device=student.device)]
    for student_row, teacher_row, documents, counted in zip(
        student.unbind(), teacher.unbind(), document.unbind(), labelled.unbind(), strict=True
    ):
        for block in _blocks(documents, counted, heads):
            of_block = checkpoint(
                function, student_row, teacher_row, block, use_reentrant=False, preserve_rng_state=False
            )
            values.append(of_block)
    return torch.cat(values)


def in_single(states: Tensor) -> Tensor:
    """Return states in float32, or unchanged if they are finer."""
    return states if states.dtype.itemsize >= 4 else states.float()


def _blocks(document: Tensor, labelled: Tensor, heads: int) -> Iterator[Block]:
    positions = labelled.nonzero().flatten()
    size = max(1, BLOCK_VALUES // (heads * len(document)))
    for start in range(0, len(positions), size):
        queries = positions[start : start + size]
        stop = int(queries[-1]) + 1
        before = positions.new_ones(stop).cumsum(0) - 1 <= queries[:, None]
        seen = before & (document[:stop] == document[queries, None])
        first = int(seen.int().argmax(1).min())
        yield Block(queries, first, stop, seen[:, first:])

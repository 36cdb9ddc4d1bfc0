"""Signals of several teachers as one signal.

A teacher's part of a batch are the rows that it is asked about and the positions that it teaches there. The heads of
several teachers are joined side by side, as one head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool_torch import NO_LABEL, batch_rows, compute_on_host
from torch import Tensor

COLUMN = "teacher"
"""The column of tokens with the number of their teacher, from 1."""


class Part(NamedTuple):
    """A teacher's part of a batch with N labels.

    `rows` are those with a document of the teacher. `asked` [M] are the numbers, among the N, of their labelled positions:
    one for each row of the teacher's signal. `taught` [n] are the rows of that signal whose positions it teaches.
    """

    rows: tuple[int, ...]
    asked: Tensor
    taught: Tensor

    def of(self, batch: kdtool.Batch) -> kdtool.Batch:
        """Return the rows of the batch."""
        return batch if len(self.rows) == len(batch.row_keys) else batch_rows(batch, self.rows)


def parts_of(batch: kdtool.Batch, teachers: Sequence[str]) -> dict[str, Part]:
    """Return the parts of the teachers that teach a position of the batch; the first teacher's if there is none."""
    parts = {
        name: Part(*compute_on_host(_find_part, batch.columns[COLUMN], batch.document, batch.labels, number=number))
        for number, name in enumerate(teachers, 1)
    }
    return {name: part for name, part in parts.items() if part.rows} or {teachers[0]: _whole_part(batch)}


def _find_part(
    column: Tensor, document: Tensor, labels: Tensor, *, number: int
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    labelled = labels != NO_LABEL
    mine = (_numbers(column, document) == number) & labelled
    rows = mine.any(1).nonzero().flatten()
    index = (labelled.flatten().cumsum(0) - 1).view_as(labels)
    inside = labelled[rows]
    return tuple(rows.tolist()), index[rows][inside], mine[rows][inside].nonzero().flatten()


def _numbers(column: Tensor, document: Tensor) -> Tensor:
    """Return the number of each position's teacher, [B, L]: the greatest in its document, since tokens without text have 0.

    A document without a number is of the first teacher.
    """
    index = document.long().clamp(min=-1) + 1
    greatest = column.new_zeros(len(column), int(index.max()) + 1).scatter_reduce(1, index, column, "amax")
    return greatest.gather(1, index).clamp(min=1)


def _whole_part(batch: kdtool.Batch) -> Part:
    labels = torch.arange(int((batch.labels != NO_LABEL).sum()), device=batch.labels.device)
    return Part(tuple(range(len(batch.row_keys))), labels, labels)


class Heads:
    """One head of the sum of several heads' widths, kept until one of them changes.

    A position's states are 0 outside the columns of its teacher, so that its logits are that teacher's.
    """

    def __init__(self) -> None:
        self._heads: dict[str, kdtool.Head] = {}
        self._joined: kdtool.Head | None = None

    def update(self, heads: Mapping[str, kdtool.Head]) -> None:
        """Add teachers' heads by name; one whose weight is another replaces the one that is known."""
        for name, head in heads.items():
            known = self._heads.get(name)
            if known is None or known.weight.data_ptr() != head.weight.data_ptr():
                self._heads[name], self._joined = head, None

    def join(self) -> kdtool.Head:
        """Return the head of all teachers that are known.

        Raises:
            UsageError: their logits are capped differently.
        """
        if self._joined is None:
            caps = {name: head.soft_cap for name, head in self._heads.items()}
            if len({*caps.values()}) > 1:
                shown = ", ".join(f"{name} at {cap:g}" if cap else f"{name} not" for name, cap in caps.items())
                raise kdtool.UsageError(
                    f"routed: teachers cap their logits differently ({shown}), but the documents of a batch need one cap; "
                    "record their top-k tokens (`signals: {use: top-k}`), or train in one phase for each teacher"
                )
            heads = self._heads.values()
            vocabulary, dtype = min(head.vocabulary for head in heads), self._dtype()
            weight = torch.cat([_head_weight(head)[:vocabulary].to(dtype) for head in heads], 1)
            self._joined = kdtool.Head(weight, vocabulary, soft_cap=next(iter(caps.values())))
        return self._joined

    def place(self, name: str, states: Tensor) -> Tensor:
        """Return a teacher's final states [n, H] as states of the joined head, [n, ΣH]."""
        if self._heads[name].bias is not None:
            states = torch.cat([states, states.new_ones(len(states), 1)], 1)
        widths = [_head_width(head) for head in self._heads.values()]
        at = [*self._heads].index(name)
        left, right = sum(widths[:at]), sum(widths[at + 1 :])
        scaled = states.to(self._dtype()) * self._heads[name].scale
        return torch.nn.functional.pad(scaled, (left, right))

    def _dtype(self) -> torch.dtype:
        first, *others = (head.weight.dtype for head in self._heads.values())
        for other in others:
            first = torch.promote_types(first, other)
        return first


def _head_width(head: kdtool.Head) -> int:
    return head.weight.shape[1] + (head.bias is not None)


def _head_weight(head: kdtool.Head) -> Tensor:
    """Return a head's weight, with its bias as a last column."""
    weight = head.weight.detach()
    return weight if head.bias is None else torch.cat([weight, head.bias.detach()[:, None].to(weight.dtype)], 1)


def join_signals(
    parts: Mapping[str, Part], signals: Mapping[str, kdtool.Signal], count: int, heads: Heads
) -> kdtool.Signal:
    """Return one signal of `count` positions from the parts of several teachers and their signals, by name."""
    if len(signals) == 1:
        return next(iter(signals.values()))  # its rows hold every label

    def of(kind: str) -> dict[str, Any]:
        return {name: value for name, signal in signals.items() if (value := getattr(signal, kind)) is not None}

    def scatter(values: Mapping[str, Any], field: Callable[[Any], Tensor], empty: int) -> Tensor:
        tensors = {name: field(value) for name, value in values.items()}
        whole = next(iter(tensors.values())).new_full((count, max(each.shape[1] for each in tensors.values())), empty)
        for name, each in tensors.items():
            taught = parts[name].taught
            whole[parts[name].asked[taught], : each.shape[1]] = each[taught]
        return whole

    lazy: kdtool.LazyLogits | None = None
    sparse: kdtool.SparseTokens | None = None
    chosen: kdtool.ChosenTokens | None = None
    if lazies := of("lazy"):
        heads.update({name: each.head for name, each in lazies.items()})
        states = {name: heads.place(name, each.hidden) for name, each in lazies.items()}
        lazy = kdtool.LazyLogits(scatter(states, lambda each: each, 0), heads.join())
    if sparses := of("sparse"):
        ids, weights = scatter(sparses, lambda each: each.ids, -1), scatter(sparses, lambda each: each.weights, 0)
        first = next(iter(sparses.values()))
        sparse = kdtool.SparseTokens(ids, weights, first.form, first.temperature)
    if chosens := of("chosen"):
        ids = scatter(chosens, lambda each: each.ids, -1)
        logs = scatter(chosens, lambda each: each.log_probabilities, 0)
        chosen = kdtool.ChosenTokens(ids, logs, next(iter(chosens.values())).temperature)
    fingerprint = " ".join(f"{name} {signal.fingerprint}" for name, signal in signals.items())
    return kdtool.Signal(fingerprint, lazy, sparse, chosen=chosen)

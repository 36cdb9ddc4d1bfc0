"""The heads of several teachers side by side, as one head."""

from __future__ import annotations

from collections.abc import Mapping

import kdtool
import torch
from torch import Tensor

__all__ = ["Heads"]


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
            weight = torch.cat([_weight(head)[:vocabulary].to(dtype) for head in heads], 1)
            self._joined = kdtool.Head(weight, vocabulary, soft_cap=next(iter(caps.values())))
        return self._joined

    def place(self, name: str, states: Tensor) -> Tensor:
        """Return a teacher's final states [n, H] as states of the joined head, [n, ΣH]."""
        if self._heads[name].bias is not None:
            states = torch.cat([states, states.new_ones(len(states), 1)], 1)
        widths = [_width(head) for head in self._heads.values()]
        at = [*self._heads].index(name)
        left, right = sum(widths[:at]), sum(widths[at + 1 :])
        scaled = states.to(self._dtype()) * self._heads[name].scale
        return torch.nn.functional.pad(scaled, (left, right))

    def _dtype(self) -> torch.dtype:
        first, *others = (head.weight.dtype for head in self._heads.values())
        for other in others:
            first = torch.promote_types(first, other)
        return first


def _width(head: kdtool.Head) -> int:
    return head.weight.shape[1] + (head.bias is not None)


def _weight(head: kdtool.Head) -> Tensor:
    """Return a head's weight, with its bias as a last column."""
    weight = head.weight.detach()
    return weight if head.bias is None else torch.cat([weight, head.bias.detach()[:, None].to(weight.dtype)], 1)

"""The sizes of a model, which a cut makes smaller."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Shape"]


class Shape(NamedTuple):
    """Sizes of a model. The size of a head is its source's."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int

    def __str__(self) -> str:
        heads = _pluralise(self.heads, "head")
        if self.heads != self.kv_heads:
            heads += f" on {_pluralise(self.kv_heads, 'KV head')}"
        return f"{_pluralise(self.layers, 'layer')}, hidden {self.hidden}, {heads}, feed-forward {self.feed_forward}"


def _pluralise(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"

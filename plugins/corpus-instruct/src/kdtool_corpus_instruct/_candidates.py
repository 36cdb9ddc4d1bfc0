"""Rows that are missing, and the answers that may fill them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import kdtool

    from kdtool_corpus_instruct._answers import Parts
    from kdtool_corpus_instruct._cells import Cell
    from kdtool_corpus_instruct._templates import Turns

__all__ = ["Candidate", "Slot"]


@dataclass(frozen=True)
class Slot:
    """A row that is missing: its cell and number, and how often it was asked for. A repair goes on in a conversation."""

    cell: Cell
    number: int
    attempt: int = 0
    repairs: int = 0
    conversation: Turns = ()

    @property
    def id(self) -> str:
        """Id of the row that fills the slot."""
        return f"{self.cell}/{self.number}"


@dataclass(frozen=True)
class Candidate:
    """An answer for a slot: its parts, or the reason why it is useless, with an `error` if it can be repaired."""

    slot: Slot
    request: kdtool.Request
    answer: kdtool.TextAnswer
    values: Mapping[str, object]
    parts: Parts | None = None
    reason: str = ""
    error: str = ""

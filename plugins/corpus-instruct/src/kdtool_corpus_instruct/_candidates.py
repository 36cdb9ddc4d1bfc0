"""Missing rows, and the answers that may fill them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import kdtool
    from kdtool_asking import Turns

    from kdtool_corpus_instruct._answers import Parts
    from kdtool_corpus_instruct._cells import Cell

__all__ = ["Candidate", "Failure", "Slot"]


@dataclass(frozen=True)
class Failure:
    """An answer that went back to the teacher: the reason, its price, and its parts if it had all of them."""

    reason: str
    picodollars: int
    parts: Parts | None


@dataclass(frozen=True)
class Slot:
    """A missing row: its cell and number, and the number of requests for it so far.

    A repair continues a `conversation`; `failed` are the failed answers in it, the newest last.
    """

    cell: Cell
    number: int
    attempt: int = 0
    failed: tuple[Failure, ...] = ()
    conversation: Turns = ()

    @property
    def id(self) -> str:
        """Id of the row that fills the slot."""
        return f"{self.cell}/{self.number}"


@dataclass(frozen=True)
class Candidate:
    """An answer for a slot: its parts, or the reason for its rejection, with an `error` if it can be repaired."""

    slot: Slot
    request: kdtool.Request
    answer: kdtool.TextAnswer
    values: Mapping[str, object]
    parts: Parts | None = None
    reason: str = ""
    error: str = ""

    def reject(self, reason: str, error: str = "") -> Candidate:
        """Return the candidate as a rejected one."""
        return replace(self, reason=reason, error=error)

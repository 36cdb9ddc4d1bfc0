"""An exported file and its place, relative to a card."""

from __future__ import annotations

from dataclasses import dataclass

import kdtool

__all__ = ["CardFile"]


@dataclass(frozen=True)
class CardFile:
    """An exported file or folder and its `place`, relative to the card; "." for the card's own folder."""

    artifact: kdtool.Artifact
    place: str

"""The place of model cards: README.md in an artefact's folder, or next to its file.

A card does not belong to the artefact: measuring comes later, and another evaluator changes the card and not the model.
"""

from __future__ import annotations

from pathlib import Path

from kdtool._contract.evaluation import Artifact
from kdtool._store.atomic_files import write_beside

CARD = "README.md"
"""The name that hubs look for."""


def card_of(artifact: Artifact) -> Path:
    """Return where an artefact's card is: in its folder, or next to its file."""
    return (artifact.path if artifact.path.is_dir() else artifact.path.parent) / CARD


def write_card(artifact: Artifact, text: str | None = None) -> None:
    """Write the card of an artefact that has one, as the exporter wrote it or completed as `text`."""
    if artifact.card:
        write_beside(card_of(artifact), (text or artifact.card).rstrip("\n") + "\n")

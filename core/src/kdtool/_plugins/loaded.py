"""An imported component class with its origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdtool._contract.component import Component

__all__ = ["Loaded"]


@dataclass(frozen=True)
class Loaded:
    """An imported component class with its origin. `source` is a local plugin's file, `digest` its SHA-256 as imported."""

    cls: type[Component]
    use: str
    distribution: str
    version: str
    source: Path | None = None
    digest: str = ""

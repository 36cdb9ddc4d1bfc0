"""Rows of equal length, filled without gaps.

`Packed` is the packer `packed` of recipes. Examples become documents of tokens (`_documents`), which are concatenated and
cut into rows; only the current row and document are in memory. `Pairs` in `_pairs` is the packer `pairs`: a chosen and a
rejected answer to a prompt in each row.
"""

from __future__ import annotations

from kdtool_packer_packed._packed import Packed
from kdtool_packer_packed._pairs import Pairs

__all__ = ["Packed", "Pairs"]

"""Rows of equal length, filled without gaps.

`Packed` is the packer that recipes call `packed`. Examples become documents of tokens (`_documents`), which follow each
other and are cut into rows, one at a time: nothing but the current row and document is in memory. `Pairs`, which
recipes call `pairs`, is in `_pairs`: a chosen and a rejected answer to a prompt in each row.
"""

from __future__ import annotations

from kdtool_packer_packed._packed import Packed
from kdtool_packer_packed._pairs import Pairs

__all__ = ["Packed", "Pairs"]

"""The optimizers `adamw`, `adamw-8bit` and `muon`, all with settings by groups of parameters.

- `_groups` settings of groups, and parameters split by them
- `_adamw` AdamW of PyTorch, and of bitsandbytes with its state in 8 bits
- `_eight_bit` the latter's state, as checkpoints store it
- `_muon` Muon for the matrices of the layers, AdamW for the rest
- `_joined` several optimizers as one
"""

from __future__ import annotations

from kdtool_optimizers._adamw import AdamW, AdamW8Bit
from kdtool_optimizers._groups import Group
from kdtool_optimizers._muon import Muon

__all__ = ["AdamW", "AdamW8Bit", "Group", "Muon"]

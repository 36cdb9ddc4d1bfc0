"""Speculative decoding: a draft proposes tokens, and the target verifies them in one forward pass.

`_runtime` is the loop that generates, `_reading` one model with its keys and values, `_rule` decides which proposed tokens
stay. `_drafted_models` opens the models of a run with a draft.
"""

from __future__ import annotations

from kdtool_speculation._drafted_models import DraftedModels
from kdtool_speculation._runtime import Speculation, SpeculativeRuntime

__all__ = ["DraftedModels", "Speculation", "SpeculativeRuntime"]

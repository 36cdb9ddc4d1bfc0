"""The transform `compile`: a student's decoder layers run compiled while a phase trains.

`_layers` compiles them; `_machine` says whether this machine can. Weights, their names and what is saved stay as they are.
"""

from __future__ import annotations

from kdtool_transform_compile._transform import Compile

__all__ = ["Compile"]

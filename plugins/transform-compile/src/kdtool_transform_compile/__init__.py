"""The transform `compile`: a student's decoder layers run compiled while a phase trains.

`_layers` compiles them; `_machine` checks that this machine can. Weights, their names and saved files stay the same.
"""

from __future__ import annotations

from kdtool_transform_compile._transform import Compile

__all__ = ["Compile"]

"""The evaluator `efficiency`: what a model costs its user in size, time and memory.

The engine calls it once with all subjects. `_evaluator` chooses whom to measure and has them timed in turns (`_turns`):
folders that transformers opens in a process each, others by their answers (both `_timed`).
`_measurements` turns all of it into measurements. `_worker` and `_alone` are programs of separate processes.
"""

from __future__ import annotations

from kdtool_evaluator_efficiency._evaluator import Efficiency

__all__ = ["Efficiency"]

"""The evaluator `efficiency`: what a model costs its user in size, time, memory, energy and money.

The engine calls it once with all subjects. `_evaluator` chooses whom to measure and has them timed. `_turns` asks them in
turns: `_workers` has a process for each folder that transformers opens (`_worker` is what runs in it), `_answers` times what
only answers. `_energy` reads the machine's counters, `_measurements` turns all of it into measurements.
"""

from __future__ import annotations

from kdtool_evaluator_efficiency._config import BreakEven
from kdtool_evaluator_efficiency._evaluator import Efficiency

__all__ = ["BreakEven", "Efficiency"]

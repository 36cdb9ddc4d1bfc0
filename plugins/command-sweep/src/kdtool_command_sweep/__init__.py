"""Sweeps: one recipe run at every point of a grid of settings, and one table of the results.

- `grid` values to points, with a readable label for each
- `points` checks every point, runs one, and records how it ended
- `run_sweep` all points, one after the other
- `table` measurements of all points side by side, and which point is best
- `results`, `sections` what a sweep found, and its tables as text
- `record`, `page` `sweep.json`, `sweep.md` and `sweep.html`
- `command` the command `kdtool sweep`

A point is a run like any other, in its own folder.
"""

from kdtool_command_sweep.points import SweepPoint
from kdtool_command_sweep.results import SweepResults
from kdtool_command_sweep.run_sweep import plan_sweep, sweep
from kdtool_command_sweep.table import SweepCell, SweepRow, SweepTable

__all__ = ["SweepCell", "SweepPoint", "SweepResults", "SweepRow", "SweepTable", "plan_sweep", "sweep"]

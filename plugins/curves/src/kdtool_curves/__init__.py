"""Library for trackers that draw curves: a series for each arm and seed, with names that stay the same over a run's life.

`CurvesTracker` is the base class of such a tracker, `figures` names the numbers of a step, `main_settings` returns the
recipe's settings for a table of runs, `samples_text` formats completions.
"""

from __future__ import annotations

from kdtool_curves._figures import figures, main_settings, samples_text
from kdtool_curves._tracker import CurvesTracker

__all__ = ["CurvesTracker", "figures", "main_settings", "samples_text"]

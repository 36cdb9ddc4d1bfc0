"""The tracker `wandb`: a run's curves, measurements, samples and artefacts in Weights & Biases.

`_tracker` sends events to a separate process (`_process`), the only one that imports wandb: a library that hangs, dies or
is slow to import cannot hold up training. In that process `_worker` reads the events, `_tracking` opens a W&B run for each
arm and seed, `_rows` turns training steps into points of curves, and `_results` adds the results of a finished run.
"""

from __future__ import annotations

from kdtool_tracker_wandb._tracker import WandbTracker

__all__ = ["WandbTracker"]

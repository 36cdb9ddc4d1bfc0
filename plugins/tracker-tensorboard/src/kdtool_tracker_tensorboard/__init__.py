"""The tracker `tensorboard`: event files in the run's folder.

`_event_file` writes and reads event files, `_summaries` makes their contents, `_tracker` decides which file gets what.
"""

from __future__ import annotations

from kdtool_tracker_tensorboard._tracker import TensorBoardTracker

__all__ = ["TensorBoardTracker"]

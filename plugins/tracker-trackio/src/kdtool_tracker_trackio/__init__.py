"""The tracker `trackio`: a database in the run's folder that trackio's dashboard shows.

`_database` writes trackio's documented tables, `_tracker` decides what goes into them. trackio itself is not imported: it
chooses its folder once for a process when it is imported, and starts threads.
"""

from __future__ import annotations

from kdtool_tracker_trackio._tracker import TrackioTracker

__all__ = ["TrackioTracker"]

"""The trackers `profile` and `profile-losses`: time and memory of every hook of a run.

`_tracker` wraps the hooks, `_recorder` adds up their calls in a tree, `_memory` reads the peaks. `_table`, `_speedscope` and
`_page` turn the tree into files.
"""

from __future__ import annotations

from kdtool_profile._tracker import Profile, ProfileLosses

__all__ = ["Profile", "ProfileLosses"]

"""`kdtool data`: looks at what runs have stored. `kdtool data signals inspect RECIPE` shows recorded signals.

The click commands are in `_command`. `_find` finds the recording that is meant, `_recording` says what lies on disk,
`_sample` what the cache recalls of a row, and `_lines` writes both for people. Nothing is made or changed.
"""

from __future__ import annotations

from kdtool_command_data._command import data

__all__ = ["data"]

"""`kdtool data`: inspects data stored by runs. `kdtool data signals inspect RECIPE` shows recorded signals.

The click commands are in `_command`. `_find` finds the recording, `_recording` reads its files, `_sample` recalls a row,
and `_lines` formats both. All commands only read.
"""

from __future__ import annotations

from kdtool_command_data._command import data

__all__ = ["data"]

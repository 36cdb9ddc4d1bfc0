"""`kdtool data`: looks at data stored by runs, and exports it.

The click commands are in `_command` and `_generations`. For signals, `_find` finds the recording, `_recording` reads its
files, `_sample` recalls a row, and `_lines` formats both. For text, `_texts` finds it, `_status` formats a
generation's state, `_export` writes the rows, and `_card` their data card. No command changes what runs stored.
"""

from __future__ import annotations

from kdtool_command_data._command import data

__all__ = ["data"]

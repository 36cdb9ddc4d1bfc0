"""The tracker `console`: shows a run in the terminal.

`_live` draws bars with rich, `_plain` writes lines for logs, `_words` holds the sentences of both;
`_tracker` chooses one and counts.
"""

from __future__ import annotations

from kdtool_tracker_console._tracker import ConsoleTracker

__all__ = ["ConsoleTracker"]

"""`kdtool gate`: decides by exit code whether the student of a finished run may ship.

`decision` applies the rules to a run's comparisons, `comment` words the decision in Markdown for a pull request, and
`command` is the click command.
"""

from __future__ import annotations

from kdtool_command_gate.comment import write_comment
from kdtool_command_gate.decision import Decision, decide

__all__ = ["Decision", "decide", "write_comment"]

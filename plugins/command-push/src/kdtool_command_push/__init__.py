"""`kdtool push`: publishes the exported files of a finished run on the Hugging Face Hub.

`publication` collects the files of the repository and writes those that describe them, `checks` finds reasons against
publishing, `hub` uploads everything in one commit, and `command` is the click command.
"""

from __future__ import annotations

from kdtool_command_push.checks import Check, check
from kdtool_command_push.hub import Pushed, upload
from kdtool_command_push.publication import Publication, plan_push

__all__ = ["Check", "Publication", "Pushed", "check", "plan_push", "upload"]

"""Publishing the exported files of a finished run on the Hugging Face Hub.

`plan_push` collects the files of the repository, `check` returns reasons against publishing, and `upload` makes one
commit.
"""

from __future__ import annotations

from kdtool_export.push.checks import Check, check
from kdtool_export.push.hub import Pushed, upload
from kdtool_export.push.publication import Publication, plan_push

__all__ = ["Check", "Publication", "Pushed", "check", "plan_push", "upload"]

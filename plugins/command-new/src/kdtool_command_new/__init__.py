"""`kdtool new KIND NAME`: a new package with a working plugin, made from the templates next to this file.

`new` is the click command that the entry point names. It checks what was asked, answers the template's questions and
lets copier write the files. Nothing is asked, fetched or run, and existing files are never changed. Differences
between kinds are in `_kinds` and `template/kinds`.
"""

from __future__ import annotations

from kdtool_command_new._command import new

__all__ = ["new"]

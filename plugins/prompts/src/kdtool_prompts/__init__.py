"""Library for plugins that ask teachers: requests from sandboxed Jinja templates. Not a plugin.

`Templates` finds, checks and renders the templates of a recipe; `Turns` is a rendered request.
"""

from __future__ import annotations

from kdtool_prompts._templates import Template, Templates, Turns

__all__ = ["Template", "Templates", "Turns"]

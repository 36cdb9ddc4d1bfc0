"""`kdtool init`: five questions, and a commented recipe that `kdtool check` accepts.

- `_questions` asks on a terminal, with a default for every question
- `_teachers`, `_hardware`, `_data` the choices, and their sections of the recipe
- `_answers` all of them; goal and time
- `_draft` the recipe that follows from the answers
- `_fitting` layers, memory and steps, by the forecast of `kdtool.check`
- `_writing` the recipe as commented YAML
"""

from __future__ import annotations

from kdtool_command_init._command import init

__all__ = ["init"]

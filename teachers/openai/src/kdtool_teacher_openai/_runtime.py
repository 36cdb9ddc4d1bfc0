"""The teacher as evaluators see it: it answers, and has neither states nor likelihoods to show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_teacher_openai import OpenAI

__all__ = ["AnsweringRuntime"]


class AnsweringRuntime(kdtool.Runtime):
    """Asks the server as the teacher itself does; closing it leaves the teacher's connection open."""

    def __init__(self, teacher: OpenAI) -> None:
        self._teacher = teacher
        # By `chat` a prompt is what a user says, which is answered, not continued.
        self.abilities = frozenset[kdtool.Ability]({"converse" if teacher.config.api == "chat" else "continue"})

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Yield answers as they come. Raises as `kdtool_answer`."""
        return self._teacher.kdtool_answer(requests)

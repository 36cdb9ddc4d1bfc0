"""The tokenizer of a student or a teacher, whichever a phase trains or asks."""

from __future__ import annotations

from kdtool._contract.run_info import Hooks, RunInfo
from kdtool._contract.student import Student
from kdtool._contract.teacher import Teacher
from kdtool._contract.tokenizer import Tokenizer

__all__ = ["tokenizer_of"]


def tokenizer_of(hooks: Hooks, name: str, run: RunInfo) -> Tokenizer:
    """Return the tokenizer of the student or teacher of that name."""
    owner = hooks.owner(name)
    kind: type[Student | Teacher] = Teacher if owner and owner.kind == "teacher" else Student
    return hooks.component(name, kind).kdtool_tokenizer(run)

"""Hooks for a node that refuse undeclared teachers: those that the node does not ask.

Of such a teacher only the tokenizer is there, and its shapes if a source of the node asked it. Only a teacher that the node
asks has the weights that the node expects. So a teacher that a component does not declare (`derives_from`, `asks`, a loss's
teacher) cannot leave stale results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

from kdtool._assembly.assemble import Assembly
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import ModelFacts, Runtime
from kdtool._contract.run_info import Hooks, RunInfo
from kdtool._contract.teacher import Teacher
from kdtool._contract.tokenizer import Tokenizer
from kdtool._errors import PluginError
from kdtool._run.graph import Node


@contextmanager
def hooks_of(assembly: Assembly, shared: Hooks, node: Node) -> Iterator[Hooks]:
    """Yield the hooks with which a node is made; `shared` are those of the run. Components of a phase close at the end."""
    hidden = {
        name: _Undeclared(name, cast("Teacher", teacher), node.title, inherited=name in node.known_teachers)
        for name, teacher in assembly.of_kind("teacher").items()
        if name not in node.teachers
    }
    if not hidden and node.phase is None:
        yield shared
        return
    with assembly.scope(node.phase, hidden) as hooks:
        yield hooks


class _Undeclared(Teacher):
    """Replaces a teacher in a node that does not ask it. Its tokenizer is in the fingerprints of components that use it.

    With `inherited` a source of the node asked it, so that its settings are in the node's fingerprint.
    """

    def __init__(self, name: str, teacher: Teacher, stage: str, *, inherited: bool) -> None:
        super().__init__(teacher.config)
        self._name, self._teacher, self._stage, self._inherited = name, teacher, stage, inherited

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise PluginError(
            f"{self._stage}: asks {self._name}, which none of its components declares, so a change of that teacher would "
            "go unnoticed. Name the teacher in the component's `derives_from` (a student, a corpus) or `asks` (an evaluator)"
        )

    def kdtool_tokenizer(self, run: RunInfo) -> Tokenizer | None:
        return self._teacher.kdtool_tokenizer(run)

    def kdtool_describe(self, run: RunInfo) -> ModelFacts | None:
        return self._teacher.kdtool_describe(run) if self._inherited else self._refuse()

    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        return self._refuse() if subject.role == "teacher" else None

    kdtool_signal = kdtool_answer = kdtool_trainable = _refuse

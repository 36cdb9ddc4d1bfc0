"""Hooks for a node: teachers that it does not ask give their tokenizers, those that its sources asked also their shapes.

Only a teacher that the node asks has the weights that the node expects. So what a component does not declare
(`derives_from`, `asks`, a loss's teacher) cannot leave results that are reused where they no longer hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from kdtool._assembly.assemble import Assembly
from kdtool._contract.data import Batch
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import ModelFacts, Request, Runtime, TextAnswer
from kdtool._contract.run_info import Hooks, RunInfo
from kdtool._contract.signals import Signal, SignalRequest
from kdtool._contract.teacher import Teacher
from kdtool._contract.tokenizer import Tokenizer
from kdtool._errors import PluginError
from kdtool._run.graph import Node

__all__ = ["hooks_of"]


@contextmanager
def hooks_of(assembly: Assembly, shared: Hooks, node: Node) -> Iterator[Hooks]:
    """Give the hooks with which a node is made; `shared` are those of the run. A phase's own components close at the end."""
    teachers = assembly.of_kind("teacher")
    hidden = {
        name: _Undeclared(name, found, node.name, inherited=name in node.asked)
        for name, found in teachers.items()
        if name not in node.teachers
    }
    if not hidden and node.phase is None:
        yield shared
        return
    with assembly.scope(node.phase, hidden) as hooks:
        yield hooks


class _Undeclared(Teacher):
    """Stands for a teacher in a node that does not ask it. Its tokenizer is in the fingerprints of what uses it.

    With `inherited` a source of the node asked it: then all that it is by its settings is in the node's fingerprint.
    """

    def __init__(self, name: str, teacher: Any, stage: str, *, inherited: bool) -> None:
        super().__init__(teacher.config)
        self._name, self._teacher, self._stage, self._inherited = name, teacher, stage, inherited

    def kdtool_tokenizer(self, run: RunInfo) -> Tokenizer:
        found: Tokenizer = self._teacher.kdtool_tokenizer(run)
        return found

    def kdtool_describe(self, run: RunInfo) -> ModelFacts | None:
        if not self._inherited:
            self._refuse()
        found: ModelFacts | None = self._teacher.kdtool_describe(run)
        return found

    def kdtool_signal(self, batch: Batch, want: SignalRequest) -> Signal:
        self._refuse()

    def kdtool_answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        self._refuse()

    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        return self._refuse() if subject.role == "teacher" else None

    def kdtool_trainable(self, run: RunInfo) -> Runtime:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise PluginError(
            f"{self._stage}: asks {self._name}, which none of its components declares, so a change of that teacher would "
            "go unnoticed. Name the teacher in the component's `derives_from` (a student, a corpus) or `asks` (an evaluator)"
        )

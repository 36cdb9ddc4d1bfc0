"""Requests of evaluators before a run: each is given a teacher that notes what it is asked and answers nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kdtool

from kdtool_teacher_claude._requests import refusal

__all__ = ["NotingRuntime", "requests_of"]

_TEXT = "def increment(number):\n    return number + 1\n\n\n" * 40


class NotingRuntime(kdtool.Runtime):
    """Notes requests, and refuses each."""

    abilities: frozenset[kdtool.Ability] = frozenset({"converse"})

    def __init__(self) -> None:
        self.noted: list[kdtool.Request] = []

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Yield a refusal of each request."""
        for request in requests:
            self.noted.append(request)
            yield refusal(request, "nothing is asked before the run")


def requests_of(
    run: kdtool.RunInfo, evaluator: str, teacher: str, runtime: NotingRuntime
) -> list[kdtool.Request] | str:
    """Return what an evaluator asks a teacher, or why that is not known.

    Args:
        run: the run that is checked.
        evaluator: its name in the recipe.
        teacher: name of the teacher, which opens `runtime` meanwhile.
        runtime: notes the requests.
    """
    component = run.component(evaluator, kdtool.Evaluator)
    if component.asks:
        return "it asks other teachers, too"
    runtime.noted.clear()
    try:
        with TemporaryDirectory() as folder:
            hooks: Any = _Quiet(run.hook)
            quiet = replace(run, hook=hooks, texts=_OneText(), folder=Path(folder), say=lambda _: None, stage="scores")
            list(component.kdtool_evaluate(quiet, [kdtool.Subject(teacher, "teacher")]))
    except Exception as error:  # what the evaluator lacks here may exist in the run
        return f"it fails before the run ({type(error).__name__})"
    if runtime.noted and (component.reads_text or component.measures_jointly):
        return "its number depends on the run's text or speed"
    return list(runtime.noted)


class _Quiet:
    """The hooks of a run, without its progress."""

    def __init__(self, hooks: Any) -> None:
        self._hooks = hooks

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name == "kdtool_progress" else getattr(self._hooks, name)


class _OneText:
    """Text that shows whether an evaluator of text would ask at all."""

    def examples(self, split: kdtool.Split) -> Iterator[kdtool.Example]:
        """Yield a document."""
        yield kdtool.Example("text", kdtool.Text(_TEXT), split, language="python")

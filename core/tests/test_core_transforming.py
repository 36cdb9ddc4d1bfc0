"""A student between the start and the end of its transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kdtool
import pytest
import toy
from kdtool._run.stages.phase_training import Transforming
from kdtool_testing import make_run


def transform(function: Callable[[Any], Any]) -> kdtool.Transform:
    class Made(kdtool.Transform):
        """Does what the function does."""

        def kdtool_transform(self, student: Any, run: Any) -> Any:
            return function(student)

    return Made(Made.Config())


def test_transforms_finish_in_reverse_and_give_back_what_they_replaced(tmp_path: Path) -> None:
    first, inner, lasting = (toy.Unigram({}) for _ in range(3))
    finished = []

    def replace(student: Any) -> Iterator[Any]:
        assert student is first
        yield inner
        finished.append("replace")

    def keep(student: Any) -> Iterator[Any]:
        yield
        finished.append("keep")

    transforming, run = Transforming(first), make_run(tmp_path)
    for function in (replace, keep):
        transforming.apply(transform(function), run)
    assert transforming.student is inner
    assert transforming.finish() is first
    assert finished == ["keep", "replace"]
    functions: list[Callable[[Any], Any]] = [keep, lambda student: lasting, lambda student: None]
    for change in functions:
        transforming.apply(transform(change), run)
    assert transforming.finish() is lasting


def test_a_second_yield_is_refused(tmp_path: Path) -> None:
    def twice(student: Any) -> Iterator[Any]:
        yield student
        yield student

    transforming = Transforming(toy.Unigram({}))
    transforming.apply(transform(twice), make_run(tmp_path))
    with pytest.raises(kdtool.PluginError, match="yields more than once"):
        transforming.finish()

"""The teacher as evaluators see it: it converses, and has neither states nor likelihoods to show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import kdtool

__all__ = ["AnsweringRuntime"]


class AnsweringRuntime(kdtool.Runtime):
    """Asks as the teacher itself does, so that stored answers are not paid for again."""

    abilities: frozenset[kdtool.Ability] = frozenset({"converse"})

    def __init__(self, answer: Callable[[Iterable[kdtool.Request]], Iterator[kdtool.TextAnswer]]) -> None:
        self._answer = answer

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Yield answers as they come. Raises as `kdtool_answer`."""
        return self._answer(requests)

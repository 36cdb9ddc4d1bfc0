"""The teacher as evaluators see it: it answers, and has neither states nor likelihoods to show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import kdtool

__all__ = ["AnsweringRuntime"]


class AnsweringRuntime(kdtool.Runtime):
    """Asks the server as the teacher itself does; closing it leaves the teacher's connection open."""

    def __init__(
        self,
        answer: Callable[[Iterable[kdtool.Request]], Iterator[kdtool.TextAnswer]],
        abilities: frozenset[kdtool.Ability],
    ) -> None:
        self._answer = answer
        self.abilities = abilities

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Yield answers as they come. Raises as `kdtool_answer`."""
        return self._answer(requests)

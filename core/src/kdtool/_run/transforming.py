"""A student between the start and the end of its transforms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kdtool._contract.language_model import LanguageModel
from kdtool._contract.run_info import RunInfo
from kdtool._contract.student import Transform
from kdtool._errors import PluginError

__all__ = ["Transforming"]


@dataclass
class Transforming:
    """A student and the transforms that have not finished with it."""

    student: LanguageModel
    _unfinished: list[tuple[LanguageModel | None, Iterator[object]]] = field(default_factory=list)

    def apply(self, transform: Transform, run: RunInfo) -> None:
        """Change the student by a transform, up to its `yield` if it has one."""
        answer = transform.kdtool_transform(self.student, run)
        if isinstance(answer, Iterator):
            changed = next(answer, None)
            replaced = None if changed is None or changed is self.student else self.student
            self._unfinished.append((replaced, answer))
            self.student = changed or self.student
        else:
            self.student = answer or self.student

    def finish(self) -> LanguageModel:
        """Run what follows the `yield` of each transform, in reverse order, and return the student.

        Raises:
            PluginError: a transform yields more than once.
        """
        while self._unfinished:
            replaced, rest = self._unfinished.pop()
            for _ in rest:
                raise PluginError(
                    "kdtool_transform yields more than once; it must yield the student once, or return it"
                )
            self.student = replaced or self.student
        return self.student

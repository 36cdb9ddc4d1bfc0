"""Shapes of the models whose layers losses compare, and the untrained students that decide them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kdtool._assembly.checks.dependencies import taken_by
from kdtool._contract.language_model import ModelFacts
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._run.stages.students import facts_of


@dataclass(frozen=True)
class Shapes:
    """Shapes of the student and the teachers, by name.

    `described` are as the components describe them. `untrained` are the untrained students by seed, if these decide from
    which of the teacher's layers theirs are copied; losses on layers then depend on them. Else it is empty.
    """

    student: str
    described: Mapping[str, ModelFacts]
    untrained: Mapping[int, Node] = field(default_factory=dict)

    @classmethod
    def of(cls, context: Context, described: Mapping[str, ModelFacts], untrained: Mapping[int, Node]) -> Shapes:
        """Return the shapes of a run.

        A student that is cut from a teacher, and does not describe from which layers, chooses them when it is built.
        """
        (student,) = context.assembly.of_kind("student")
        cut = bool({*taken_by([student], context.assembly.shared)} & {*context.assembly.of_kind("teacher")})
        chosen_later = cut and student in described and not described[student].copied_layers
        return cls(student, described, untrained if chosen_later else {})

    def of_seed(self, seed: int) -> Mapping[str, ModelFacts]:
        """Return the shapes with the student of a seed, which must be made if it decides layers."""
        node = self.untrained.get(seed)
        return self.described if node is None else {**self.described, self.student: facts_of(node)}

    def of_all_seeds(self) -> Iterator[Mapping[str, ModelFacts]]:
        """Yield the shapes of each different student."""
        if not self.untrained:
            yield self.described
        for seed in {node: seed for seed, node in self.untrained.items()}.values():
            yield self.of_seed(seed)

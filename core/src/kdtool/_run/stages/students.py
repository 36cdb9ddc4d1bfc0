"""The untrained student, and the shapes of the models whose layers losses compare.

The student is built once for each seed it depends on, and saved, so that every arm starts from the same file. A student that
is cut from a teacher may decide, when it is built, which layers these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from kdtool._assembly.checks import taken_by
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.run_info import RunInfo
from kdtool._contract.training import Student
from kdtool._plugins.hooks import blame
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node
from kdtool._store.artefacts import check_file
from kdtool._store.shared import MODEL

_FACTS: TypeAdapter[ModelFacts] = TypeAdapter(ModelFacts)
_MODEL_FACTS = "model_facts.json"


def add_students(context: Context, graph: Graph, texts: Node) -> dict[int, Node]:
    """Add the untrained student of every seed; one artefact for all where the student does not use the seed.

    A student may calibrate on the text and may be cut from a teacher, which it then names in `derives_from`.
    """
    seeds = context.assembly.recipe.seeds
    (student,) = context.assembly.of_kind("student").values()
    if isinstance(student, Student) and not student.uses_seed:
        return dict.fromkeys(seeds, _add_student(context, graph, None, texts))
    return {seed: _add_student(context, graph, seed, texts) for seed in seeds}


def facts_of(node: Node) -> ModelFacts:
    """Return the shapes of the student in an artefact."""
    return _FACTS.validate_json(check_file(node.path, _MODEL_FACTS).read_bytes())


def _add_student(context: Context, graph: Graph, seed: int | None, texts: Node) -> Node:
    (name,) = context.assembly.of_kind("student")
    taken = taken_by([name], context.assembly.shared)
    teachers = [teacher for teacher in context.assembly.of_kind("teacher") if teacher in taken]
    parts = {
        "student": context.part(name),
        "seed": seed,
        "teachers": {teacher: context.part(teacher) for teacher in teachers},
        **context.tokenizer_part(name),
    }

    def build(run: RunInfo, folder: Path) -> None:
        student = run.component(name, Student).kdtool_build_student(run)
        with blame(run.hook.owner(name), "the student that it built"):
            facts = _FACTS.validate_python(student.facts)
            student.save(folder / MODEL)
        (folder / _MODEL_FACTS).write_bytes(_FACTS.dump_json(facts, indent=1))

    label, title = ("", "untrained student") if seed is None else (f"seed{seed}", f"untrained student, seed {seed}")
    inputs, weights = {"texts": texts}, context.weights_of(teachers)
    node = Node(
        "students", label, title, context.store, parts, inputs, build, texts=texts, teachers=weights, seed=seed or 0
    )
    return graph.add(node)


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

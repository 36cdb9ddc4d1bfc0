"""The untrained student: built once for each seed it depends on, and saved, so that every arm starts from the same file."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from kdtool._assembly.checks.dependencies import taken_by
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.run_info import RunInfo
from kdtool._contract.student import Student
from kdtool._plugins.owner import blame
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node
from kdtool._store.artefacts import check_file
from kdtool._store.layout import MODEL

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

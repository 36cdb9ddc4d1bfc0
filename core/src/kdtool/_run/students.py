"""The untrained student: built once for each seed it depends on, and saved, so that every arm starts from the same file."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from kdtool._answers import require
from kdtool._contract.kinds import Student
from kdtool._contract.models import ModelFacts
from kdtool._contract.training import RunInfo
from kdtool._owner import blame
from kdtool._run.artefacts import checked
from kdtool._run.context import Context
from kdtool._run.graph import MODEL, Graph, Node, Stage
from kdtool._takes import taken_by

__all__ = ["STUDENTS", "add_students", "facts_of"]

STUDENTS = "students"
"""The kind of the stage that builds untrained students."""

_FACTS: TypeAdapter[ModelFacts] = TypeAdapter(ModelFacts)
_FACTS_FILE = "facts.json"


def add_students(context: Context, graph: Graph, texts: Node) -> dict[int, Node]:
    """Add the untrained student of every seed; one artefact for all where the student does not use the seed.

    A student may calibrate on the text and may be cut from a teacher, which it then names in `takes`.
    """
    seeds = context.assembly.recipe.seeds
    (student,) = context.assembly.named("student").values()
    if isinstance(student, Student) and not student.uses_seed:
        return dict.fromkeys(seeds, _add_student(context, graph, None, texts))
    return {seed: _add_student(context, graph, seed, texts) for seed in seeds}


def facts_of(node: Node) -> ModelFacts:
    """Return the shapes of the student in an artefact."""
    return _FACTS.validate_json(checked(node.path, _FACTS_FILE).read_bytes())


def _add_student(context: Context, graph: Graph, seed: int | None, texts: Node) -> Node:
    (name,) = context.assembly.named("student")
    stage = Stage(STUDENTS, "" if seed is None else f"seed{seed}", seed=seed or 0)
    taken = [
        teacher for teacher in taken_by([name], context.assembly.shared) if teacher in context.assembly.named("teacher")
    ]
    tokenizer = context.hooks.kdtool_tokenizer.of(name)(context.info(stage, context.folder))
    parts = {
        "student": context.part(name),
        "seed": seed,
        "teachers": {teacher: context.part(teacher) for teacher in taken},
        "tokenizer": tokenizer.fingerprint,
        "start": list(tokenizer.document_start),
        "chat": tokenizer.chat_fingerprint,
    }

    def build(run: RunInfo, folder: Path) -> None:
        student = run.hook.kdtool_build_student.of(name)(run)
        with blame(run.hook.owner(name), "the student that it built"):
            require(student.facts, ModelFacts, "facts of the student")
            student.save(folder / MODEL)
        (folder / _FACTS_FILE).write_bytes(_FACTS.dump_json(student.facts, indent=1))

    teachers = context.speaking(taken)
    return graph.add(Node(stage, context.store, True, parts, {"texts": texts}, build, texts=texts, teachers=teachers))

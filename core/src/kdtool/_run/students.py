"""The untrained student: built once for each seed it depends on, and saved, so that every arm starts from the same file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from kdtool._contract.kinds import Student
from kdtool._contract.models import ModelFacts
from kdtool._contract.training import RunInfo
from kdtool._errors import PluginError, UsageError
from kdtool._run.artefacts import Artefact
from kdtool._run.context import Context, Stage
from kdtool._run.fingerprint import fingerprint

__all__ = ["FACTS", "MODEL", "build_students", "check_tokenizers", "facts_of"]

MODEL = "model"
"""The folder of a model inside its artefact."""
FACTS: TypeAdapter[ModelFacts] = TypeAdapter(ModelFacts)
_FACTS_FILE = "facts.json"


def build_students(context: Context, texts: Artefact, teachers: Mapping[str, str]) -> dict[int, Artefact]:
    """Return the untrained student of every seed; one artefact for all where the student does not use the seed.

    Args:
        context: the run.
        texts: the text artefact, from which a student may calibrate.
        teachers: fingerprints of the teachers' components by name, from which a student may be cut.
    """
    seeds = context.assembly.recipe.seeds
    (student,) = context.assembly.named("student").values()
    if isinstance(student, Student) and not student.uses_seed:
        return dict.fromkeys(seeds, _build_student(context, None, texts, teachers))
    return {seed: _build_student(context, seed, texts, teachers) for seed in seeds}


def facts_of(artefact: Artefact) -> ModelFacts:
    """Return the shapes of the student in an artefact."""
    return FACTS.validate_json((artefact.path / _FACTS_FILE).read_bytes())


def check_tokenizers(context: Context, run: RunInfo, teachers: frozenset[str]) -> None:
    """Refuse token-level losses between different vocabularies, before any weights load.

    Raises:
        UsageError: a teacher's tokenizer is not the student's.
    """
    (name,) = context.assembly.named("student")
    own = context.hooks.kdtool_tokenizer.of(name)(run)
    for teacher in sorted(teachers):
        other = context.hooks.kdtool_tokenizer.of(teacher)(run)
        if other.fingerprint != own.fingerprint:
            sizes = f"{teacher!r} ({other.vocabulary:,} tokens) and {name!r} ({own.vocabulary:,} tokens)"
            remedy = "take a student that inherits the teacher's tokenizer, or a loss for different ones"
            raise UsageError(f"the tokenizers of {sizes} differ, but a loss compares them token by token: {remedy}")


def _build_student(context: Context, seed: int | None, texts: Artefact, teachers: Mapping[str, str]) -> Artefact:
    (name,) = context.assembly.named("student")
    stage = Stage("students", seed=seed or 0)
    tokenizer = context.hooks.kdtool_tokenizer.of(name)(context.info(stage, context.folder))
    print_of = fingerprint(
        "student",
        student=context.part(name),
        seed=seed,
        texts=texts.fingerprint,
        teachers=dict(teachers),
        tokenizer=tokenizer.fingerprint,
    )

    def build(run: RunInfo, folder: Path) -> None:
        student = run.hook.kdtool_build_student.of(name)(run)
        if student is None:
            raise PluginError(f"{run.hook.owner(name)} built no student")
        student.save(folder / MODEL)
        (folder / _FACTS_FILE).write_bytes(FACTS.dump_json(student.facts, indent=1))

    return context.make(context.store, stage, print_of, build)

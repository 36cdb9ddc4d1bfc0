"""Columns of tokens: packers, and components that label text, provide them in a phase; losses and weightings read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdtool._assembly.built import Built, BuiltRecipe
from kdtool._assembly.checks.teacher_signals import teachers_of
from kdtool._errors import Problem
from kdtool._plugins.hook_specs import implements
from kdtool._recipe.model import ComponentSpec, PhaseSpec, of_kind
from kdtool._recipe.yaml import KeyPath
from kdtool._tokenizers.byte_alignment import BYTE_END, BYTE_START


def labelling(built: Mapping[KeyPath, Built], phase: PhaseSpec) -> tuple[ComponentSpec, ...]:
    """Return the phase's weightings that label text, in recipe order, and then the teachers of its losses that do."""
    taught = [pair[0] for spec in phase.losses for pair in teachers_of(spec, built[spec.key].component, phase)]  # type: ignore[arg-type]
    found = {spec.key: spec for spec in (*phase.weightings, *taught)}.values()
    return tuple(spec for spec in found if implements(built[spec.key].loaded.cls, "kdtool_annotate"))


def check_columns(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the columns that two components provide, that do not reach the tokens, or that are read but missing."""
    yield from dict.fromkeys(problem for phase in parts.phases for problem in _check_phase(parts, phase))


def _check_phase(parts: BuiltRecipe, phase: PhaseSpec) -> Iterator[Problem]:
    packers, labellers = of_kind(phase.sources, "packer"), labelling(parts.built, phase)
    providers: dict[str, str] = {}
    for spec in (*packers, *labellers):
        for column in sorted(parts.component(spec).columns):
            reserved = column in {BYTE_START, BYTE_END}
            other = "kdtool itself" if reserved else providers.setdefault(column, spec.path)
            if other != spec.path:
                message = f"provides the column {column!r}, which {other} provides too"
                yield parts.problem(spec.key, message, "rename it, or leave one of them out")
    deaf = [packer for packer in packers if not parts.component(packer).carries_annotations]
    for spec in labellers if deaf else ():
        message = f"labels text, but the packer {deaf[0].use!r} does not carry labels to tokens"
        yield parts.problem(spec.key, message, "use a packer that carries annotations, or leave this out")
    for spec in (*phase.losses, *phase.weightings):
        if missing := sorted(parts.component(spec).columns - providers.keys()):
            others = ", ".join(providers) or "none"
            message = (
                f"requires column {missing[0]!r}, which neither packer nor weighting provides (there are: {others})"
            )
            yield parts.problem(spec.key, message, "use rows, or a weighting in this phase, that provide it")

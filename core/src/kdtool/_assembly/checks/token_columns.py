"""Columns of tokens: packers and weightings that label text provide them in a phase, losses and weightings read them."""

from __future__ import annotations

from collections.abc import Iterator

from kdtool._assembly.built import BuiltRecipe, labelling_weightings
from kdtool._errors import Problem
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._tokenizers.byte_alignment import BYTE_END, BYTE_START


def check_columns(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the columns that two components provide, that do not reach the tokens, or that are read but missing."""
    yield from dict.fromkeys(problem for phase in parts.phases for problem in _check_phase(parts, phase))


def _check_phase(parts: BuiltRecipe, phase: PhaseSpec) -> Iterator[Problem]:
    packers, labelling = of_kind(phase.sources, "packer"), labelling_weightings(parts.built, phase)
    providers: dict[str, str] = {}
    for spec in (*packers, *labelling):
        for column in sorted(parts.component(spec).columns):
            reserved = column in {BYTE_START, BYTE_END}
            other = "kdtool itself" if reserved else providers.setdefault(column, spec.path)
            if other != spec.path:
                message = f"provides the column {column!r}, which {other} provides too"
                yield parts.problem(spec.key, message, "rename it, or leave one of them out")
    deaf = [packer for packer in packers if not parts.component(packer).carries_annotations]
    for spec in labelling if deaf else ():
        message = f"labels text, but the packer {deaf[0].use!r} does not carry labels to tokens"
        yield parts.problem(spec.key, message, "use a packer that carries annotations, or leave this out")
    for spec in (*phase.losses, *phase.weightings):
        if missing := sorted(parts.component(spec).columns - providers.keys()):
            others = ", ".join(providers) or "none"
            message = (
                f"requires column {missing[0]!r}, which neither packer nor weighting provides (there are: {others})"
            )
            yield parts.problem(spec.key, message, "use rows, or a weighting in this phase, that provide it")

"""Columns of tokens: who gives them in a phase, and who needs them. `_fitting` asks for the problems of a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._contract.corpus import Packer
from kdtool._errors import Problem
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, of_kind, problem_at
from kdtool._recipe.yaml import KeyPath
from kdtool._tokenizers.byte_alignment import BYTE_END, BYTE_START

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["column_problems"]


def column_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield what is wrong with the columns of each phase: given by two, carried by nobody, or needed and given by nobody."""
    found: dict[Problem, None] = {}
    for phase in (*recipe.phases, *(recipe.control.phases if recipe.control else ())):
        found.update(dict.fromkeys(_problems(recipe, phase, built)))
    yield from found


def _problems(recipe: Recipe, phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    annotators = of_kind(phase.sources, "annotator")
    given: dict[str, ComponentSpec] = {}
    for spec in (*of_kind(phase.sources, "packer"), *annotators):
        for name in sorted(_columns(built, spec)):
            if name in given:
                yield problem_at(recipe, spec.key, f"gives the column {name!r}, which {given[name].path} gives too")
            given.setdefault(name, spec)
    for spec in annotators:
        yield from _hindered(recipe, phase, spec, built)
    for spec in (*phase.losses, *phase.weightings):
        lacking = sorted(_columns(built, spec) - given.keys())
        if lacking:
            yield _lacking(recipe, spec, lacking[0], given)


def _hindered(
    recipe: Recipe, phase: PhaseSpec, spec: ComponentSpec, built: Mapping[KeyPath, Built]
) -> Iterator[Problem]:
    """Say why what an annotator gives cannot come to the tokens."""
    reserved = _columns(built, spec) & {BYTE_START, BYTE_END}
    if reserved:
        yield problem_at(recipe, spec.key, f"gives the column {min(reserved)!r}, which is kdtool's own")
    for packer in of_kind(phase.sources, "packer"):
        found = built[packer.key].instance()
        if isinstance(found, Packer) and not found.carries_annotations:
            message = f"says what text is, but the packer {packer.use!r} does not carry that to tokens"
            yield problem_at(recipe, spec.key, message, "use a packer that carries annotations, or leave this out")


def _lacking(recipe: Recipe, spec: ComponentSpec, column: str, given: Iterable[str]) -> Problem:
    there = ", ".join(given) or "none"
    message = f"needs the column {column!r} of the rows' tokens, which nobody gives (there are: {there})"
    remedy = f"take rows that give it, or an annotator: `annotators: {{{column}: {{}}}}`, if it is called so"
    return problem_at(recipe, spec.key, message, remedy)


def _columns(built: Mapping[KeyPath, Built], spec: ComponentSpec) -> frozenset[str]:
    return built[spec.key].instance().columns

"""Licences of a recipe: components whose weights, text or signals end up in the student, judged before anything is loaded.

Called by `run`, `plan` and `check`. A student has weights (its own, and those in `derives_from`), its corpora's text, and
the signals of the teachers that its losses learn from. Controls and plain cross-entropy use nothing of a teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.dependencies import taken_by
from kdtool._assembly.checks.loss_weights import weighs
from kdtool._contract.licences import LicenceTerms, Licensed, Objection, Transfer, judge_terms
from kdtool._errors import PluginError, Problem, RecipeError
from kdtool._plugins.attribution import using
from kdtool._recipe.keys import acknowledgements
from kdtool._recipe.model import problem_at
from kdtool._run.stages.terms import plain_terms

KEY = "terms_acknowledged"
"""The recipe's key for acknowledged licences: component → licence."""
_OWN: Mapping[str, Transfer] = {"student": "weights", "corpus": "text"}
"""Transfer into the student from a component of that kind in the recipe."""


def licences_of(assembly: Assembly) -> tuple[Licensed, ...]:
    """Return the terms of the components, with their transfers into the student.

    Raises:
        RecipeError: terms are not acknowledged or forbid this use, or an acknowledged component is not in the recipe.
    """
    names = _names(assembly)
    agreed = {names.get(name, name): licence for name, licence in acknowledgements(assembly.recipe.data.get(KEY))}
    taken: dict[str, set[Transfer]] = {}
    for name, transfer in _transfers(assembly):
        taken.setdefault(names.get(name, name), set()).add(transfer)
    licences, objections = judge_terms(_terms(assembly), taken, agreed)
    if objections:
        raise RecipeError([_problem(assembly, objection) for objection in objections])
    return licences


def _terms(assembly: Assembly) -> dict[str, LicenceTerms]:
    """Return the terms of the components that have any, by path."""
    terms: dict[str, LicenceTerms] = {}
    for name, built in assembly.built_for().items():
        with using(built.owner, "its licence_terms"):
            licence: object = built.component.licence_terms
            if not isinstance(licence, LicenceTerms | None):
                raise PluginError(f"licence_terms must be LicenceTerms or None, but is {licence!r}")
            if licence is not None:
                terms[name] = licence
    return terms


def _names(assembly: Assembly) -> dict[str, str]:
    """Return components by the names that a recipe may use: paths, keys, and short names that only one of them has."""
    specs = assembly.recipe.lasting
    short = [spec.name for spec in specs]
    found = {spec.name: spec.path for spec in specs if short.count(spec.name) == 1}
    return found | {name: spec.path for spec in specs for name in (".".join(map(str, spec.key)), spec.path)}


def _transfers(assembly: Assembly) -> Iterator[tuple[str, Transfer]]:
    for spec in assembly.recipe.lasting:
        if spec.kind in _OWN:
            yield spec.path, _OWN[spec.kind]
            yield from assembly.shared[spec.path].derives_from.items()
    for phase in assembly.arms["student"]:
        for term in plain_terms(assembly, phase):
            text = all(need == {"text"} for need in term.needs)
            taken = (*term.teachers, *taken_by(term.teachers, assembly.shared)) if weighs(term.weight) else ()
            yield from ((name, "text" if text else "signals") for name in taken)


def _problem(assembly: Assembly, objection: Objection) -> Problem:
    keys = {spec.path: spec.key for spec in assembly.recipe.lasting}
    key = keys[objection.component] if objection.component else (KEY, *objection.line.split("."))
    return problem_at(assembly.recipe, key, objection.message, objection.remedy)

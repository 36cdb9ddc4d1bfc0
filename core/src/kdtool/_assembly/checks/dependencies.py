"""What components take of others by name (`Component.derives_from`): that it is there, is another, and can be given.

`_fitting` asks for the problems of a recipe; the run asks whose text stands behind a text artefact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._contract.component import Component
from kdtool._contract.teacher import Teacher
from kdtool._errors import Problem
from kdtool._plugins.validation import implements
from kdtool._recipe.model import ComponentSpec, Recipe, problem_at
from kdtool._recipe.yaml import KeyPath

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["taken_by", "takes_problems"]


def takes_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield what is wrong with what the recipe's components take of each other."""
    lasting = {spec.path: built[spec.key].instance() for spec in recipe.lasting}
    specs = {spec.path: spec for spec in recipe.lasting}
    for path, spec in specs.items():
        for name in lasting[path].derives_from:
            if problem := _problem(spec, name, specs, lasting):
                yield problem_at(recipe, spec.key, *problem)


def taken_by(names: Iterable[str], components: Mapping[str, Component]) -> tuple[str, ...]:
    """Return what the named components take of others, and what those take in turn, each name once."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        component = components.get(waiting.pop(0))
        taken = [name for name in (component.derives_from if component else ()) if name not in found]
        found.update(dict.fromkeys(taken))
        waiting += taken
    return tuple(found)


def _problem(
    spec: ComponentSpec, name: str, specs: Mapping[str, ComponentSpec], components: Mapping[str, Component]
) -> tuple[str, str] | None:
    transfer = components[spec.path].derives_from[name]
    other = specs.get(name)
    if other is None:
        kinds = {"teacher", "corpus"} if transfer == "text" else {"teacher"}
        there = ", ".join(path for path, found in specs.items() if found.kind in kinds and path != spec.path)
        return f"takes {transfer} of {name!r}, which is not there", f"there are: {there or 'none'}"
    if spec.path in taken_by([spec.path], components):
        return f"takes {transfer} of {name}, which takes something of it in turn", "let one of them begin"
    teacher = components[name]
    if transfer == "text" and isinstance(teacher, Teacher):
        if "text" not in teacher.offers or not implements(type(teacher), "kdtool_answer"):
            offers = ", ".join(sorted(teacher.offers)) or "nothing"
            return f"takes text of {name} ({other.use}), which offers {offers}", "name a teacher that answers prompts"
    elif transfer == "text" and other.kind != "corpus":
        return f"takes text of {name}, which is a {other.kind}", "name a teacher, or a corpus"
    return None

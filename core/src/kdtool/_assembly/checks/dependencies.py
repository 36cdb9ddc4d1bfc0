"""Components derived from others (`Component.derives_from`): the others exist and can be taken from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from kdtool._assembly.built import BuiltRecipe
from kdtool._contract.component import Component
from kdtool._contract.corpus import Corpus
from kdtool._contract.teacher import Teacher
from kdtool._errors import Problem


def check_dependencies(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the sources that are missing, circular, or unable to give what is taken of them."""
    specs = {spec.path: spec for spec in parts.recipe.lasting}
    components: dict[str, Component] = {path: parts.component(spec) for path, spec in specs.items()}
    for path, spec in specs.items():
        for name, transfer in components[path].derives_from.items():
            source, message, remedy = components.get(name), "", "name a teacher, or a corpus"
            if source is None:
                kinds = {"teacher", "corpus"} if transfer == "text" else {"teacher"}
                there = [other for other, known in specs.items() if known.kind in kinds and other != path]
                message, remedy = f"takes {transfer} of {name!r}, which is missing", _suggest(name, there)
            elif path in taken_by([path], components):
                message = f"takes {transfer} of {name}, which takes something of it in turn"
                remedy = "let one of them begin"
            elif transfer == "text" and isinstance(source, Teacher):
                if "text" not in source.offers:
                    offers = ", ".join(sorted(source.offers)) or "nothing"
                    message = f"takes text of {name} ({specs[name].use}), which offers {offers}"
                    remedy = "name a teacher that answers prompts"
            elif transfer == "text" and not isinstance(source, Corpus):
                message = f"takes text of {name}, which is a {specs[name].kind}"
            if message:
                yield parts.problem(spec.key, message, remedy)
    if (reference := parts.recipe.reference) and not is_measurable(components[reference.path]):
        remedy = "name a model that answers or has probabilities, by its plugin and settings"
        yield parts.problem(reference.key, "cannot be measured: it is the student itself, or offers nothing", remedy)


def is_measurable(teacher: Component) -> bool:
    """Return whether evaluators measure a teacher: a model other than the student that offers logits or text."""
    if not isinstance(teacher, Teacher) or teacher.initial_student is not None or teacher.derives_from:
        return False
    return bool({"text", "logits"} & teacher.offers)


def _suggest(name: str, there: list[str]) -> str:
    """Return the components with this short name, else all there are."""
    called_so = [other for other in there if other.rpartition(".")[2] == name]
    return f"did you mean {' or '.join(map(repr, called_so))}?" if called_so else f"there are: {', '.join(there)}"


def taken_by(names: Iterable[str], components: Mapping[str, Component]) -> tuple[str, ...]:
    """Return the sources of the named components, and the sources of those in turn, each name once."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        component = components.get(waiting.pop(0))
        taken = [name for name in (component.derives_from if component else ()) if name not in found]
        found.update(dict.fromkeys(taken))
        waiting += taken
    return tuple(found)

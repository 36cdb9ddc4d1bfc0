"""Licences: transfers to the student, the terms that allow or forbid them, and the recipe's acknowledgements.

`judge_terms` decides; `_run.preflight` gathers its input from a recipe. A licence is defined by its component's
`LicenceTerms`, never by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Transfer = Literal["weights", "signals", "text"]
"""Ways in which a student derives from others: copied weights, signals of a model, text."""


@dataclass(frozen=True)
class LicenceTerms:
    """The licence or terms of use of a component: shown before a run and recorded with it.

    `licence` is an SPDX expression or the name that all components use for it. `restrictions` bind everyone who uses or
    passes on a model that derives from the component; a recipe with such a student must acknowledge them. `forbids` are
    transfers into a model without weights under the same licence. The model card repeats `notices` word for word, and the
    name of a published model must begin with `name_prefix`.
    """

    licence: str
    url: str = ""
    restrictions: tuple[str, ...] = ()
    forbids: tuple[Transfer, ...] = ()
    notices: tuple[str, ...] = ()
    name_prefix: str = ""


_WORDS: Mapping[Transfer, str] = {"weights": "weights", "signals": "its predictions", "text": "its text"}


@dataclass(frozen=True)
class Licensed:
    """The terms of a component, and their consequences for this run.

    `transfers` are those from the component to the student, in alphabetical order; `forbidden` those that the terms
    forbid. `acknowledged` is the recipe's acknowledgement, "" if there is none.
    """

    component: str
    terms: LicenceTerms
    transfers: tuple[Transfer, ...] = ()
    forbidden: tuple[Transfer, ...] = ()
    acknowledged: str = ""

    @property
    def needed(self) -> str:
        """The entry that the recipe needs under `terms_acknowledged`, "" if none."""
        if self.forbidden:
            return f"{self.terms.licence}, with permission for {' and '.join(self.forbidden)}"
        return self.terms.licence if self.transfers and self.terms.restrictions else ""

    def sentence(self) -> str:
        """Return the transfers to the student and the recipe's acknowledgement, in a line."""
        taken = " and ".join(_WORDS[transfer] for transfer in self.transfers) or "nothing from it"
        said = "acknowledged" if self.needed and self.acknowledged else ""
        if self.forbidden and self.acknowledged:
            said = "forbidden by the terms, but permitted to you according to the recipe"
        parts = (
            f"{self.component}: licence {self.terms.licence} {self.terms.url}".rstrip(),
            f"the student uses {taken}",
            said,
        )
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class Objection:
    """A reason to refuse a recipe: a `component`, or a `line` of its acknowledgements; the other is "".

    `agree` is the licence to acknowledge for the component, "" if that would not do.
    """

    component: str
    line: str
    message: str
    remedy: str
    agree: str = ""


def judge_terms(
    terms: Mapping[str, LicenceTerms], taken: Mapping[str, Iterable[Transfer]], acknowledged: Mapping[str, str]
) -> tuple[tuple[Licensed, ...], tuple[Objection, ...]]:
    """Decide which transfers the terms allow.

    Args:
        terms: by component.
        taken: transfers from components to the student, with terms or without.
        acknowledged: the recipe's words, by component.

    Returns:
        The terms of all components, and the changes that the recipe needs before it may run.
    """
    weights = {terms[name].licence for name in terms if "weights" in set(taken.get(name, ()))}
    licences = []
    for name, licence in terms.items():
        transfers: tuple[Transfer, ...] = tuple(sorted(set(taken.get(name, ()))))
        forbidden = tuple(each for each in transfers if each in licence.forbids and licence.licence not in weights)
        licences.append(Licensed(name, licence, transfers, forbidden, acknowledged.get(name, "")))
    wanted = {each.component: each.needed for each in licences if each.needed}
    objections = [*_unknown(licences, acknowledged), *_unsaid(licences, wanted, sorted(weights))]
    return tuple(licences), tuple(objections)


def published_name(name: str, licences: Iterable[Licensed]) -> str:
    """Return the name required of a model that is published under these terms."""
    prefixes = (each.terms.name_prefix for each in licences if each.transfers and each.terms.name_prefix)
    for prefix in dict.fromkeys(prefixes):
        name = name if name.startswith(prefix) else f"{prefix}-{name}"
    return name


def licence_lines(licences: Iterable[Licensed], name: str) -> Iterator[str]:
    """Yield lines for the user: the terms of the run `name`, and their requirements for a published student."""
    licences = tuple(licences)
    for licensed in licences:
        yield licensed.sentence()
        for restriction in licensed.terms.restrictions:
            yield f"  {restriction}"
    if (published := published_name(name, licences)) != name:
        yield f"the terms above require a name such as {published} for a published model of this run"


def _unknown(licences: Iterable[Licensed], acknowledged: Mapping[str, str]) -> Iterable[Objection]:
    here = {each.component: each for each in licences}
    for name, text in acknowledged.items():
        if name not in here:
            there = ", ".join(here) or "none"
            remedy = f"components with terms: {there}; leave out what the recipe does not use"
            yield Objection("", name, f"{name} is not a component of this recipe with terms", remedy)
        elif text not in {here[name].needed, here[name].terms.licence, _with_permission(here[name])}:
            message = f"is {text!r}, but {name} comes under: {here[name].terms.licence}"
            yield Objection("", name, message, f"write {here[name].needed or here[name].terms.licence!r}")


def _with_permission(licensed: Licensed) -> str:
    return f"{licensed.terms.licence}, with permission for {' and '.join(licensed.transfers)}"


def _unsaid(licences: Iterable[Licensed], wanted: Mapping[str, str], weights: list[str]) -> Iterable[Objection]:
    line = ", ".join(f'{name}: "{text}"' for name, text in wanted.items())
    line = f"terms_acknowledged: {{{line}}}"
    for each in licences:
        if not each.needed or each.acknowledged == each.needed:
            continue
        terms, where = each.terms, f" ({each.terms.url})" if each.terms.url else ""
        taken = " and ".join(_WORDS[transfer] for transfer in each.transfers)
        if each.forbidden:
            student = f"its weights are under {' and '.join(weights)}" if weights else "it has no weights of others"
            message = (
                f"the {terms.licence}{where} forbids what this recipe does: a model learns "
                f"{' and '.join(_WORDS[transfer] for transfer in each.forbidden)}, though none of its weights are under the "
                f"same licence ({student})"
            )
            remedy = (
                f"take a student that is cut from this model, or another teacher; who has permission writes\n    {line}"
            )
        else:
            begin = f"the {terms.licence}{where} binds the student, which takes {taken}:"
            message = "\n    ".join((begin, *terms.restrictions))
            remedy = f"to accept these terms, add\n    {line}"
        yield Objection(each.component, "", message, remedy, "" if each.forbidden else each.needed)

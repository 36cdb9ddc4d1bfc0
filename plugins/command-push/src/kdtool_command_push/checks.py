"""Reasons against publishing: licences, naming duties, keys in files, and figures that a reader would ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kdtool

from kdtool_command_push.publication import Publication, required_prefixes

__all__ = ["Check", "check"]

_SECRET = re.compile(rb"\b(hf_[A-Za-z0-9]{20,}|sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,})")
_TEXT_LIMIT = 1_000_000
"""Larger files are weights and vocabularies."""


@dataclass(frozen=True)
class Check:
    """A finding. `stops` is true if nothing may be uploaded because of it."""

    text: str
    stops: bool = False


def check(publication: Publication, *, permitted: bool = False) -> list[Check]:
    """Return reasons against publishing, those that stop it first.

    `permitted`: the user has the permission that a licence demands, as the recipe states.
    """
    results = publication.results
    found = [
        *_naming(publication),
        *_forbidden(results, permitted=permitted),
        *_private(publication),
        *_licences(results),
        *_without_text(publication),
        *_figures(results),
    ]
    return sorted(found, key=lambda one: not one.stops)


def _naming(publication: Publication) -> Iterator[Check]:
    for licence, prefix in required_prefixes(publication.results).items():
        if not publication.name.startswith(prefix):
            yield Check(
                f"--to: the name {publication.name!r} does not begin with {prefix!r}, which the {licence} requires of a "
                f"published model; use --to {publication.owner or 'OWNER'}/{prefix}-{publication.name}",
                stops=True,
            )


def _forbidden(results: kdtool.Results, *, permitted: bool) -> Iterator[Check]:
    for one in results.licences:
        if one.forbidden and not permitted:
            yield Check(
                f"{one.component}: the {one.terms.licence} ({one.terms.url}) forbids a model that takes "
                f"{' and '.join(one.forbidden)} from it; the recipe states that you have permission: add --permitted if "
                "that covers publishing, too",
                stops=True,
            )


def _private(publication: Publication) -> Iterator[Check]:
    """Yield files with keys, and files that name folders of this machine."""
    folders = {str(Path.home()), str(publication.results.folder)} - {"/"}
    sizes = publication.sizes()
    for place, item in publication.content(publication.owner or "OWNER").items():
        if sizes[place] > _TEXT_LIMIT:
            continue
        content = item if isinstance(item, bytes) else item.read_bytes()
        if _SECRET.search(content):
            yield Check(f"{place} holds what looks like a key; remove it from the recipe and export again", stops=True)
        if any(folder.encode() in content for folder in folders):
            yield Check(f"{place} names a folder of this machine; look whether others may read it")


def _licences(results: kdtool.Results) -> Iterator[Check]:
    for one in results.licences:
        for restriction in one.terms.restrictions if one.transfers else ():
            yield Check(f"{one.component}: {one.terms.licence}, which binds everyone who gets the model: {restriction}")
        if one.transfers and not one.terms.url:
            yield Check(
                f"{one.component}: only the name of its licence is known, {one.terms.licence!r}; read it yourself"
            )
    declared = {one.component for one in results.licences}
    for name in (one.name for one in results.components if one.kind in ("teacher", "corpus")):
        if name not in declared:
            yield Check(f"{name}: declares no licence; make sure that you may publish a model made from it")
    unknown = sum(count for name, count in results.data.get("licences", {}).items() if name in ("", "unknown"))
    if unknown:
        yield Check(f"the licence of {unknown:,} documents of the text is not known")


def _without_text(publication: Publication) -> Iterator[Check]:
    for one in publication.without_text:
        yield Check(
            f"{one.component}: the {one.terms.licence} goes along with weights that come from it, but no file LICENSE lies "
            f"beside them; add --licence FILE with its text{f', from {one.terms.url}' if one.terms.url else ''}"
        )


def _figures(results: kdtool.Results) -> Iterator[Check]:
    """Yield what a reader of the card would ask: contamination, memorisation, requirements."""
    own = {one.name for one in results.subjects if one.role == "student"}
    found = {one.name: one for one in results.measurements if one.subject in own}
    overlaps = [one for name, one in found.items() if name.startswith("contamination.")]
    if not overlaps:
        yield Check("overlap of the training text with benchmarks was not measured (evaluator contamination)")
    for one in overlaps:
        if one.value > 0:
            benchmark = one.name.partition(".")[2]
            yield Check(
                f"{one.value:.1%} of the problems of {benchmark} share text with the training text, which the card shows"
            )
    if "memorised" not in found:
        yield Check("verbatim repetition of training text was not measured (evaluator memorisation)")
    for missed in (one for one in results.requirements if not one.met):
        yield Check(f"requirement missed: {missed.measurement} {missed.text}")

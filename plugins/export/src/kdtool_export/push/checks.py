"""Reasons against publishing: licences, naming duties, keys in files, and figures that a reader would ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kdtool

from kdtool_export.push.publication import Publication, required_prefixes

_SECRET = re.compile(
    rb"\b(hf_[A-Za-z0-9]{20,}|sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|A[KS]IA[A-Z0-9]{16}\b"
    rb"|(?i:aws_secret_access_key)\W{1,9}[\w/+]{40}|PuTTY-User-Key-File)|-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY"
)
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
    checks = [
        *_naming(publication),
        *_forbidden(results, permitted=permitted),
        *_private(publication),
        *_licences(results),
        *_without_text(publication),
        *_figures(results),
    ]
    return sorted(checks, key=lambda entry: not entry.stops)


def _naming(publication: Publication) -> Iterator[Check]:
    for licence, prefix in required_prefixes(publication.results).items():
        if not publication.name.startswith(prefix):
            yield Check(
                f"--to: the name {publication.name!r} does not begin with {prefix!r}, which the {licence} requires of a "
                f"published model; use --to {publication.owner or 'OWNER'}/{prefix}-{publication.name}",
                stops=True,
            )


def _forbidden(results: kdtool.Results, *, permitted: bool) -> Iterator[Check]:
    for licensed in results.licences:
        if licensed.forbidden and not permitted:
            yield Check(
                f"{licensed.component}: the {licensed.terms.licence} ({licensed.terms.url}) forbids a model that takes "
                f"{' and '.join(licensed.forbidden)} from it; the recipe states that you have permission: add --permitted "
                "if that covers publishing, too",
                stops=True,
            )


def _private(publication: Publication) -> Iterator[Check]:
    """Yield files with keys, and files that name folders of this machine."""
    folders = {str(Path.home()), str(publication.results.folder)} - {"/"}
    sizes = publication.sizes()
    for path, item in publication.content(publication.owner or "OWNER").items():
        if sizes[path] > _TEXT_LIMIT:
            continue
        content = item if isinstance(item, bytes) else item.read_bytes()
        if _SECRET.search(content):
            yield Check(f"{path} holds what looks like a key; remove it, and export again", stops=True)
        if any(folder.encode() in content for folder in folders):
            yield Check(f"{path} names a folder of this machine; check whether others may read it")


def _licences(results: kdtool.Results) -> Iterator[Check]:
    for licensed in results.licences:
        for restriction in licensed.terms.restrictions if licensed.transfers else ():
            yield Check(
                f"{licensed.component}: {licensed.terms.licence}, which binds everyone who gets the model: {restriction}"
            )
        if licensed.transfers and not licensed.terms.url:
            yield Check(
                f"{licensed.component}: only the name of its licence is known: {licensed.terms.licence!r}; read it yourself"
            )
    declared = {licensed.component for licensed in results.licences}
    for name in (component.name for component in results.components if component.kind in ("teacher", "corpus")):
        if name not in declared:
            yield Check(f"{name}: declares no licence; make sure that you may publish a model made from it")
    unknown = sum(count for name, count in results.data.get("licences", {}).items() if name in ("", "unknown"))
    if unknown:
        yield Check(f"the licence of {kdtool.count_of(unknown, 'document')} of the text is unknown")


def _without_text(publication: Publication) -> Iterator[Check]:
    for licensed in publication.without_text:
        yield Check(
            f"{licensed.component}: weights that come from it need the text of the {licensed.terms.licence}, but there is "
            "no file LICENSE next to them; add it with --licence FILE"
            f"{f', from {licensed.terms.url}' if licensed.terms.url else ''}"
        )


def _figures(results: kdtool.Results) -> Iterator[Check]:
    """Yield what a reader of the card would ask: contamination, memorisation, requirements."""
    students = {subject.name for subject in results.subjects if subject.role == "student"}
    measured = {
        measurement.name: measurement for measurement in results.measurements if measurement.subject in students
    }
    overlaps = [measurement for name, measurement in measured.items() if name.startswith("contamination.")]
    if not overlaps:
        yield Check("overlap of the training text with benchmarks was not measured (evaluator contamination)")
    for overlap in overlaps:
        if overlap.value > 0:
            benchmark = overlap.name.partition(".")[2]
            yield Check(
                f"{overlap.value:.1%} of the problems of {benchmark} share text with the training text, which the card shows"
            )
    if "memorised" not in measured:
        yield Check("verbatim repetition of training text was not measured (evaluator memorisation)")
    for missed in (requirement for requirement in results.requirements if not requirement.met):
        yield Check(f"requirement missed: {missed.measurement} {missed.text}")

"""The first model card of an exported student: its shape, its licence, how to use it; `_build` adds the run's results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import kdtool

from kdtool_model_card._licences import card_name

__all__ = ["model_card", "write_notices"]


def model_card(
    run: kdtool.RunInfo, facts: kdtool.ModelFacts, *, stored: str, library: str, use: str, base: str = ""
) -> str:
    """Return the card in Markdown, with the terms that the model is under.

    Args:
        run: the run that exports, with its name and licences.
        facts: the exported model's shape.
        stored: a sentence on the numbers that are stored.
        library: what opens the artefact, as hubs name it in `library_name`.
        use: a block of code that uses the artefact from its own folder.
        base: for an adapter, the Hub name of the model that it is applied to.
    """
    binding = [licensed for licensed in run.licences if licensed.transfers]
    return _template().format(
        front_matter=_front_matter(binding, library, base),
        name=run.published_name,
        facts=facts,
        run=run,
        stored=stored,
        terms="\n".join([*_terms(run.licences), *(f"\n> {notice}" for notice in _notices(binding))]),
        use=use,
    )


def write_notices(folder: Path, run: kdtool.RunInfo) -> None:
    """Write NOTICE if the model's licence terms require notices."""
    notices = _notices([licensed for licensed in run.licences if licensed.transfers])
    if notices:
        (folder / "NOTICE").write_text("\n".join(notices) + "\n", encoding="utf-8")


def _template() -> str:
    return files(__package__).joinpath("exported_card.md").read_text(encoding="utf-8")


def _notices(binding: Sequence[kdtool.Licensed]) -> list[str]:
    return list(dict.fromkeys(notice for licensed in binding for notice in licensed.terms.notices))


def _front_matter(binding: Sequence[kdtool.Licensed], library: str, base: str) -> str:
    from huggingface_hub import ModelCardData

    terms = list({licensed.terms.licence: licensed.terms for licensed in binding}.values())
    expression = " AND ".join(licence.licence for licence in terms)
    name = card_name([licence.licence for licence in terms])
    other = name == "other" and bool(terms)
    data = ModelCardData(
        license=name,
        license_name=re.sub(r"[^a-z0-9.]+", "-", expression.lower()).strip("-") if other else None,
        license_link=(terms[0].url or None) if other and len(terms) == 1 else None,
        library_name=library,
        base_model=base or None,
        pipeline_tag="text-generation",
        tags=["code", "distillation", "kdtool"],
        license_expression=expression if other else None,
    )
    return data.to_yaml()


def _terms(licences: Sequence[kdtool.Licensed]) -> Iterator[str]:
    """Yield the sources of the model, with their terms."""
    if not licences:
        yield "None of the recipe's components named any: check before you publish."
    for licensed in licences:
        terms = licensed.terms
        yield f"- `{licensed.component}`: {terms.licence} {terms.url}".rstrip()
        yield f"  - the model takes {' and '.join(licensed.transfers) or 'nothing'} of it"
        if licensed.forbidden:
            forbidden = " and ".join(licensed.forbidden)
            yield f"  - the terms forbid taking {forbidden}; the maker of this model states: {licensed.acknowledged}"
        elif licensed.acknowledged:
            yield "  - acknowledged by the maker of this model"
        if licensed.transfers:
            yield from (f"  - {restriction}" for restriction in terms.restrictions)

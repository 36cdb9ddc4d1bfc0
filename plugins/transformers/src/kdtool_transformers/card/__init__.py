"""Model cards of a run's exported files, in the form of the Hugging Face Hub.

An exporter describes its own file when it writes it (`Artifact.card`): title, shape, precision and licences, by
`model_card`. `complete_card` adds the results at the end of the run; `build_card` does so for several files of a repository.
`known_terms` and `terms_of` return the terms of a published model's licence, `modelfile` the file that Ollama reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import kdtool

from kdtool_transformers.card.licences import card_name, known_terms, licence_of, terms_of
from kdtool_transformers.card.metadata import front_matter
from kdtool_transformers.card.sections import citation, data, intended_use, limits, recipe
from kdtool_transformers.card.tables import CardFile, file_table, measurements
from kdtool_transformers.card.use import modelfile, snippets

__all__ = [
    "CardFile", "build_card", "card_name", "complete_card", "known_terms", "licence_of", "model_card",
    "modelfile", "terms_of", "write_notices",
]  # fmt: skip


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
        front_matter=_exported_front_matter(binding, library, base),
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


def _exported_front_matter(binding: Sequence[kdtool.Licensed], library: str, base: str) -> str:
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


def complete_card(results: kdtool.Results, artifact: kdtool.Artifact) -> str:
    """Return the complete card of one artefact, to be stored next to it: for `Exporter.kdtool_card`."""
    return build_card(results, [CardFile(artifact, "." if artifact.path.is_dir() else artifact.path.name)])


def build_card(
    results: kdtool.Results, files: Sequence[CardFile], *, name: str = "", repository: str = "", licence_file: str = ""
) -> str:
    """Return the complete model card of exported files, in Markdown with a YAML front matter.

    Args:
        results: the run that exported them.
        files: the files to describe, at least one; the first one's own card supplies title, precision and licences.
        name: the model's name; "" takes the title of the first file's card.
        repository: `owner/name` on the Hub; "" for a card next to the files.
        licence_file: a file next to the card with the terms of all licences; "" without one.
    """
    from huggingface_hub import ModelCard

    exported = ModelCard(files[0].artifact.card, ignore_metadata_errors=True)
    head, sections = _split_sections(exported.text)
    title = name or next((line[2:] for line in head if line.startswith("# ")), results.name)
    body = [
        f"# {title}",
        *(line for line in head if not line.startswith("# ")),
        "",
        *_section("Intended use", intended_use(results)),
        *_section("Limits and bias", limits(results)),
        *_section("Training", recipe(results)),
        *_section("Data", data(results)),
        *_section("Measurements", measurements(results, files)),
        *_section("Files", file_table(results, files)),
        *_section("Use", snippets(results, files, repository)),
        *(line for heading, text in sections.items() if heading != "Use" for line in _section(heading, text)),
        *_section("Citation", citation(results, title, repository)),
    ]
    metadata = front_matter(results, files, exported.data, title, licence_file).to_yaml()
    return f"---\n{metadata}\n---\n\n" + "\n".join(body).rstrip() + "\n"


def _section(heading: str, lines: Iterator[str] | Sequence[str]) -> list[str]:
    """Return a section; nothing if it has no lines."""
    body = "\n".join(lines).strip()
    return [f"## {heading}", "", body, ""] if body else []


def _split_sections(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the lines before the first section, and those of each section by its heading."""
    head: list[str] = []
    sections: dict[str, list[str]] = {}
    lines, fenced = head, False
    for line in text.strip().splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            lines = sections.setdefault(line[3:], [])
        else:
            lines.append(line)
    return head, sections

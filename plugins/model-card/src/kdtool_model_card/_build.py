"""The whole card: the exporter's part, and sections from the results of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import kdtool

from kdtool_model_card._card_file import CardFile
from kdtool_model_card._front_matter import front_matter
from kdtool_model_card._limits import intended_use, limits
from kdtool_model_card._measured import file_table, measurements
from kdtool_model_card._origin import citation, data, recipe
from kdtool_model_card._use import snippets

__all__ = ["build_card", "complete_card"]


def complete_card(results: kdtool.Results, artifact: kdtool.Artifact) -> str:
    """Return the complete card of one artefact, to be stored next to it: for `Exporter.kdtool_card`."""
    return build_card(results, [CardFile(artifact, "." if artifact.path.is_dir() else artifact.path.name)])


def build_card(
    results: kdtool.Results,
    files: Sequence[CardFile],
    *,
    name: str = "",
    repository: str = "",
    licence_file: str = "",
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
    head, sections = _split(exported.text)
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


def _split(text: str) -> tuple[list[str], dict[str, list[str]]]:
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

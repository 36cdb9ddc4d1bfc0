"""Intended use, limits and bias of a student."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool

from kdtool_model_card._measured import RISK, is_of
from kdtool_model_card._text import percent

__all__ = ["intended_use", "limits"]


def intended_use(results: kdtool.Results) -> Iterator[str]:
    """Yield lines on the use that the student is made for."""
    languages = ", ".join(results.data.get("languages", {})) or "the languages of its training text"
    yield f"Completion and generation of source code ({languages}) with a small model on your own hardware: in an"
    yield "editor, as the draft model of speculative decoding, or as the start of further training."
    yield ""
    yield "Not intended for code that runs without review, for decisions about people, or as a source of facts. Execute"
    yield "generated code in a sandbox only."


def limits(results: kdtool.Results) -> Iterator[str]:
    """Yield lines on limits and bias, as far as the run knows them, and on figures that were not measured."""
    student = results.models.get("student")
    if student is not None:
        yield f"- At most {student.context:,} tokens of context; {student.parameters:,} parameters hold less knowledge than"
        yield "  a large model's, and generated code can be wrong, insecure or outdated."
    yield from _bias(results)
    if teachers := [component.name for component in results.components if component.kind == "teacher"]:
        names = ", ".join(f"`{name}`" for name in teachers)
        yield f"- Errors and biases of {names} can pass into the student. They were not measured, nor was the security of"
        yield "  generated code."
    seeds = {arm.seed for arm in results.arms if arm.arm == "student"}
    if len(seeds) == 1:
        yield "- Trained with one seed: intervals cover the choice of test items, not the luck of training."
    measured = {name for name in RISK if any(is_of((name,), each.name) for each in results.measurements)}
    if not measured & {"memorised", "longest-copy"}:
        yield "- Verbatim repetition of training text was not measured. Check generated code for licences of others."
    if "contamination" not in measured:
        yield "- Overlap of the training text with benchmarks was not measured."
    if not any(each.name == "energy-per-token" for each in results.measurements):
        yield "- Energy was not measured."


def _bias(results: kdtool.Results) -> Iterator[str]:
    """Yield the shares of languages and sources in the text, largest first."""
    for title, key in (("languages", "languages"), ("sources", "sources")):
        counts = {name or "unknown": count for name, count in results.data.get(key, {}).items()}
        total = sum(counts.values())
        if total:
            largest = sorted(counts.items(), key=lambda item: -item[1])[:6]
            shares = ", ".join(f"{name} {percent(count / total)}" for name, count in largest)
            yield f"- The training and test text leans to these {title}, by number of documents: {shares}."

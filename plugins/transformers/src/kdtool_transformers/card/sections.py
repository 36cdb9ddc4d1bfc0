"""Sections of a card: intended use, limits and bias of the student, and its origin.

The origin names teachers, recipe, hyperparameters and data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import kdtool

from kdtool_transformers.card.metadata import hub_names
from kdtool_transformers.card.tables import RISK, is_of, machine, number, percent, plain, public, size, table


def intended_use(results: kdtool.Results) -> Iterator[str]:
    """Yield lines on the use that the student is made for."""
    languages = ", ".join(map(plain, results.data.get("languages", {}))) or "the languages of its training text"
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


def _bias(results: kdtool.Results) -> Iterator[str]:
    """Yield the shares of languages and sources in the text, largest first."""
    for key in ("languages", "sources"):
        counts = results.data.get(key, {})
        if total := sum(counts.values()):
            largest = sorted(counts.items(), key=lambda item: -item[1])[:6]
            shares = ", ".join(f"{plain(name)} {percent(count / total)}" for name, count in largest)
            yield f"- The training and test text leans to these {key}, by number of documents: {shares}."


_HOW = {
    "weights": "starts from its weights",
    "signals": "learns from its predictions",
    "text": "is trained on its text",
}


def recipe(results: kdtool.Results) -> Iterator[str]:
    """Yield teachers and transfers, phases with their cost, hyperparameters, and the whole recipe."""
    import yaml

    terms = {licensed.component: licensed for licensed in results.licences}
    makers = [maker for maker in results.components if maker.kind in ("teacher", "student", "transform")]
    rows = []
    for maker in makers:
        facts = results.models.get(maker.name)
        model = public(maker.config.get("model")) or public(maker.use)
        parameters = number(facts.parameters) if facts else "–"
        rows.append([f"`{maker.name}`", model, parameters, _transfer(terms.get(maker.name))])
    yield table(["component", "model", "parameters", "licence and transfer"], rows)
    yield from ("", *_phases(results), "", table(["setting", "value"], list(_hyperparameters(results))))
    yield from ("", "<details><summary>The whole recipe</summary>", "", "```yaml")
    yield yaml.safe_dump(public(results.recipe), sort_keys=False, allow_unicode=True).rstrip().replace("```", "'''")
    yield from ("```", "", "</details>")


def _transfer(licensed: kdtool.Licensed | None) -> str:
    if licensed is None:
        return "–"
    transfers = " and ".join(_HOW[each] for each in licensed.transfers) or "takes nothing of it"
    return f"{licensed.terms.licence}: the student {transfers}"


def _phases(results: kdtool.Results) -> Iterator[str]:
    arm = next((arm for arm in results.arms if arm.arm == "student"), None)
    if arm is None:
        return
    rows = [
        [name, f"{phase.steps:,}", f"{phase.tokens:,}", f"{phase.seconds / 3600:.2f}", phase.dtype]
        for name, phase in arm.phases.items()
    ]
    yield table(["phase", "steps", "tokens", "hours", "precision"], rows)
    yield f"\nSeed {arm.seed}, on {machine(results)}. The energy of training was not measured."


def _hyperparameters(results: kdtool.Results) -> Iterator[list[object]]:
    """Yield the settings of trainer, losses and transforms of the student, defaults included."""
    for component in results.components:
        if component.kind in ("trainer", "loss", "weighting", "transform", "packer", "cache"):
            settings = {key: value for key, value in public(component.config).items() if value is not None}
            text = ", ".join(f"{key}={_plain(value)}" for key, value in settings.items())
            yield [f"{component.kind} `{component.name}` ({public(component.use)})", text or "no settings"]
    for key in ("train", "phases"):
        for name, phase in (results.recipe.get(key) or {}).items():
            if isinstance(phase, Mapping):
                kept = {each: value for each, value in phase.items() if each not in ("losses", "trainer")}
                yield [f"phase `{name}`", ", ".join(f"{each}={_plain(public(value))}" for each, value in kept.items())]
                yield [f"phase `{name}`: weights of losses", ", ".join(_weights(phase.get("losses") or {}))]


def _weights(losses: Mapping[str, Any]) -> Iterator[str]:
    for name, loss in losses.items():
        if isinstance(loss, Mapping):
            yield f"{name}={_plain(public(loss.get('weight', 1)))}"


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def data(results: kdtool.Results) -> Iterator[str]:
    """Yield the corpora with licences and languages, the splits, and what filters rejected."""
    facts = results.data
    rows = [
        [f"`{name}`", f"{its['documents']:,}", size(its["bytes"]), _counts(its["licences"]), _counts(its["languages"])]
        for name, its in facts.get("corpora", {}).items()
    ]
    yield table(["corpus", "documents", "size", "licences (documents)", "languages (documents)"], rows)
    splits = ", ".join(f"{name} {split['documents']:,}" for name, split in facts.get("splits", {}).items())
    if splits:
        yield f"\nDocuments by split: {splits}. A document is in one split only."
    for filter_, reasons in facts.get("rejected", {}).items():
        yield f"\nRejected by `{filter_}`: {_counts(reasons)}."
    if unknown := {name: count for name, count in facts.get("licences", {}).items() if name in ("", "unknown")}:
        yield f"\nThe licence of {kdtool.count_of(sum(unknown.values()), 'document')} is not known."


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{plain(name)} {count:,}" for name, count in counts.items()) or "–"


def citation(results: kdtool.Results, title: str, repository: str) -> Iterator[str]:
    """Yield entries of BibTeX for the model and kdtool, and the teachers' pages."""
    key = "".join(character for character in title if character.isalnum()).lower() or "student"
    url = f",\n  url = {{https://huggingface.co/{repository}}}" if repository else ""
    version = results.environment.get("kdtool", "unknown")
    yield from ("```bibtex", f"@misc{{{key},\n  title = {{{title}}}{url}\n}}")
    yield "@software{kdtool,\n  title = {kdtool, a plugin-based toolkit for distilling code models},"
    yield f"  author = {{{{The kdtool authors}}}},\n  version = {{{version}}}\n}}"
    yield "```"
    makers = {component.name for component in results.components if component.kind in ("teacher", "student")}
    for name in dict.fromkeys(hub_names(results, makers)):
        yield f"\nPlease also cite the makers of [{name}](https://huggingface.co/{name})."

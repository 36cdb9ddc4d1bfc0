"""The model card of an exported folder: what it is, its licence, how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import kdtool

__all__ = ["how_to_use", "write_card"]


def how_to_use(folder: str) -> str:
    """Return lines of Python that complete a piece of code with the model in `folder`."""
    return f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder!r}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer("def fibonacci(n):\\n", return_tensors="pt")
outputs = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
"""


def write_card(folder: Path, run: kdtool.RunInfo, facts: kdtool.ModelFacts, dtype: str, deviation: float) -> None:
    """Write README.md, with the terms that the model is under, and NOTICE where they ask for notices."""
    binding = [licensed for licensed in run.licences if licensed.takes]
    notices = list(dict.fromkeys(notice for licensed in binding for notice in licensed.terms.notices))
    lines = [
        "---",
        *_front_matter(binding),
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [code, distillation, kdtool]",
        "---",
        f"# {kdtool.published_name(run.name, binding)}",
        "",
        f"A student of {facts.parameters:,} parameters ({facts.layers} layers, width {facts.hidden}, vocabulary "
        f"{facts.vocabulary:,}, context {facts.context:,}), distilled with kdtool. Arm `{run.arm}`, seed {run.seed}.",
        f"Weights in {dtype}; logits deviate from the trained model's by {deviation:.1e} standard deviations.",
        "",
        "## Licences and terms of what it was made from",
        *_terms(run.licences),
        *(f"\n> {notice}" for notice in notices),
        "",
        "## Use",
        "```python",
        how_to_use("."),
        "```",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if notices:
        (folder / "NOTICE").write_text("\n".join(notices) + "\n", encoding="utf-8")


def _front_matter(binding: Sequence[kdtool.Licensed]) -> Iterator[str]:
    from kdtool_transformers import card_name

    licences = list(dict.fromkeys(licensed.terms.licence for licensed in binding))
    name = card_name(licences)
    yield f"license: {name}"
    if name == "other" and licences:
        yield f'license_name: "{" AND ".join(licences)}"'.replace("\n", " ")


def _terms(licences: Sequence[kdtool.Licensed]) -> Iterator[str]:
    """Yield what the model took of whom, under which terms."""
    if not licences:
        yield "None of the recipe's components named any: check before you publish."
    for licensed in licences:
        terms = licensed.terms
        yield f"- `{licensed.component}`: {terms.licence} {terms.url}".rstrip()
        yield f"  - the model takes {' and '.join(licensed.takes) or 'nothing'} of it"
        if licensed.forbidden:
            forbidden = " and ".join(licensed.forbidden)
            yield f"  - the terms forbid to take {forbidden}; who made this model says: {licensed.acknowledged}"
        elif licensed.acknowledged:
            yield "  - acknowledged by who made this model"
        if licensed.takes:
            yield from (f"  - {restriction}" for restriction in terms.restrictions)

"""The model card of an exported folder: what it is, its licence, how to use it."""

from __future__ import annotations

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
    """Write README.md, with the licences that the run's components brought."""
    terms = run.hook.kdtool_acknowledge()
    licences = {found.licence.lower() for found in terms.values()}
    brought = [f"- `{name}`: {found.licence} {found.url}".rstrip() for name, found in terms.items()]
    brought += [f"  - {line}" for found in terms.values() for line in found.restrictions]
    lines = [
        "---",
        f"license: {licences.pop() if len(licences) == 1 else 'other'}",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [code, distillation, kdtool]",
        "---",
        f"# {run.name}",
        "",
        f"A student of {facts.parameters:,} parameters ({facts.layers} layers, width {facts.hidden}, vocabulary "
        f"{facts.vocabulary:,}, context {facts.context:,}), distilled with kdtool. Arm `{run.arm}`, seed {run.seed}.",
        f"Weights in {dtype}; logits deviate from the trained model's by {deviation:.1e} standard deviations.",
        "",
        "## Licences and terms of what it was made from",
        *(brought or ["None of the recipe's components named any: check before you publish."]),
        "",
        "## Use",
        "```python",
        how_to_use("."),
        "```",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

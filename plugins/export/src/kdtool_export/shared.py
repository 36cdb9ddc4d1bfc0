"""Parts of several exporters: the card with results, the distance of logits, and code to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = (
    'def load(path, mode="rb"):\n    """Größe von 日本語."""\n\treturn [x ** 2 for x in range(1234567)]\n\n\n'
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
    "        self.items.append(item)\n        return len(self.items)\n\n\nfor i, line in enumerate(open('a.txt')):\n"
    "    if not line.strip():\n        continue\n    print(i, line.split(',')[0], sep=': ')  # it's 3.14 😀\r\n"
)
"""Text to compare on if the run has none, and text that tokenizers split differently."""


class DescribedExporter(kdtool.Exporter):
    """An exporter that completes the model card of its artefact at the end of the run."""

    def kdtool_card(self, run: kdtool.RunInfo, artifact: kdtool.Artifact, results: kdtool.Results) -> str:
        from kdtool_transformers.card import complete_card

        return complete_card(results, artifact)


def measured_texts(run: kdtool.RunInfo, most: int, characters: int) -> list[str]:
    """Return texts of the split test, else validation, else a sample."""
    from kdtool_measuring import held_out

    found = (held_out(run, split, most=most, characters=characters) for split in ("test", "validation"))
    return [document.text for document in next(filter(None, found), ())] or [SAMPLE]


def drawn_logits(model: Any, vocabulary: int) -> Tensor:
    """Return the logits of a model of transformers on drawn tokens, in float32."""
    import torch

    ids = torch.randint(vocabulary, (1, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids).logits[0, :, :vocabulary].float()
    return logits


def deviation_of(logits: Tensor, expected: Tensor) -> float:
    """Return how far logits are from those expected (root mean square), in their standard deviations."""
    return float((logits - expected).square().mean().sqrt() / expected.std())


def transformers_code(folder: str, note: str = "", dtype: str = "") -> str:
    """Return lines of Python that complete a piece of code with the model in `folder`, opened in a dtype."""
    first, options = ("import torch\n", f", dtype=torch.{dtype}") if dtype else ("", "")
    return f"""\
{first}from transformers import AutoModelForCausalLM, AutoTokenizer{note}

folder = {folder!r}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder{options})
inputs = tokenizer("def fibonacci(n):\\n", return_tensors="pt")
outputs = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
"""

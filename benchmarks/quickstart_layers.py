"""Find the layers that the quickstart keeps: remove one after the other, each time the one whose loss harms least.

    python benchmarks/quickstart_layers.py [--keep 20] [--rows 8]

Loss is the cross-entropy of the untrained student on the first 512 tokens of files of Python's standard library. States
before a removed layer are computed once, so a removal costs half a pass over the model for each layer that is left: 20
minutes of one core for 20 of the 30 layers of SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import random
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

LENGTH = 512


def main() -> None:
    """Print the layers that stay after each removal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=int, default=20)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument(
        "--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="a Llama: a folder or a hub name"
    )
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    layers = Layers(model, calibration(AutoTokenizer.from_pretrained(options.model), options.rows))
    kept = list(range(len(model.model.layers)))
    while len(kept) > options.keep:
        loss, least = layers.least_missed(kept)
        kept.remove(least)
        print(f"{len(kept)} layers without {least}: loss {loss:.3f}, keep: {kept}", flush=True)


def calibration(tokenizer: Any, rows: int) -> torch.Tensor:
    """Return the first tokens of files of the standard library, [rows, 512]."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    random.Random(1).shuffle(files)
    texts = (file.read_text(encoding="utf-8", errors="ignore")[:6000] for file in files)
    found = [ids for text in texts if len(ids := tokenizer(text)["input_ids"]) >= LENGTH]
    return torch.tensor([ids[:LENGTH] for ids in found[:rows]])


class Layers:
    """The layers of a model in transformers' Llama class, to be left out at will."""

    def __init__(self, model: Any, ids: torch.Tensor) -> None:
        self._model, self._ids = model, ids
        self._positions = torch.arange(ids.shape[1])[None]
        self._embedded = model.model.embed_tokens(ids)
        self._rotation = model.model.rotary_emb(self._embedded, self._positions)

    @torch.no_grad()
    def least_missed(self, kept: list[int]) -> tuple[float, int]:
        """Return the loss without the layer whose loss harms least, and that layer."""
        states = self._embedded
        found: list[tuple[float, int]] = []
        for place, layer in enumerate(kept):
            found.append((self._loss(states, kept[place + 1 :]), layer))
            states = self._pass(states, [layer])
        return min(found)

    def _pass(self, states: torch.Tensor, layers: list[int]) -> torch.Tensor:
        for layer in layers:
            found = self._model.model.layers[layer](
                states, attention_mask=None, position_ids=self._positions, position_embeddings=self._rotation
            )
            states = found[0] if isinstance(found, tuple) else found
        return states

    def _loss(self, states: torch.Tensor, rest: list[int]) -> float:
        final = self._model.model.norm(self._pass(states, rest))
        rows = zip(final, self._ids, strict=True)  # one row's logits at a time
        losses = [functional.cross_entropy(self._model.lm_head(row[:-1]).float(), ids[1:]).item() for row, ids in rows]
        return sum(losses) / len(losses)


if __name__ == "__main__":
    main()

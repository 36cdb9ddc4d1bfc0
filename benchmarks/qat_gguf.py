"""Measure what quantisation-aware training (QAT) and distillation (QAD) on a grid gain in a later GGUF.

    python benchmarks/qat_gguf.py [--student JSON] [--type q2_k] [--heal 20] [--steps 40] [--out FOLDER]

A student (SmolLM2-135M, or cut from it) learns Python source. From there arms take equally many steps at the same rate:
`finetuned` by ce in full precision, `qat` by ce on torchao's 4-bit grid, `grid` by ce on the type's own grid (`gguf-grid`),
and `qad` on that grid by the KL divergence from the student that all arms begin with, `before`. Each arm's weights are
then quantised as the exporter `gguf` does it, without and with an importance matrix of training text, turned back into
floats and compared in float32 on held-out files: perplexity, and mean KL divergence from `before`. llama.cpp also rounds
activations to 8 bits while it computes; that is not in these figures.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kdtool
import torch
from kdtool_essentials.python_source import PythonSource
from kdtool_export.gguf.calibration import Importance, measure_importance
from kdtool_export.gguf.files import names_in_file
from kdtool_export.gguf.quantisation import ModelShape, round_values, tensor_type
from kdtool_testing import make_run
from kdtool_transformers import TransformersModel, open_model
from torch import Tensor

STUDENT = {"use": "pruned", "layers": 30}
CE: dict[str, Any] = {"losses": {"ce": {}}}
WINDOW = 1024


def main() -> None:
    """Train the arms, quantise each, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=json.loads, default=STUDENT)
    parser.add_argument("--type", default="q2_k")
    parser.add_argument("--arms", default="finetuned,qat,grid,qad")
    parser.add_argument("--heal", type=int, default=20)
    parser.add_argument("--heal-rate", type=float, default=2e-4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("qat-gguf"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    texts = {split: _texts(split, options) for split in ("train", "test")}
    before = _opened(_trained(options, None))
    windows = {split: _windows(before, own) for split, own in texts.items()}
    expected = [_log_probabilities(before, window) for window in windows["test"]]
    found: dict[str, dict[str, Any]] = {}
    for arm in ("before", *options.arms.split(",")):
        folder = _trained(options, None if arm == "before" else _phase(arm, options.type))
        importance = measure_importance(_opened(folder), windows["train"])
        schemes = {"as trained": None, options.type: {}, f"{options.type} with importance matrix": importance}
        for scheme, weighted in schemes.items():
            model = _opened(folder)
            types = "" if weighted is None else _requantise(model.model, options.type, weighted)
            perplexity, divergence = _compared(model, windows["test"], expected)
            found[f"{arm}, {scheme}"] = {"perplexity": perplexity, "divergence": divergence, "types": types}
            print(f"| {arm} | {scheme} | {perplexity:.3f} | {divergence:.4f} | {types}", flush=True)
        (options.out / "qat_gguf.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def _phase(arm: str, mix: str) -> dict[str, Any]:
    """Return the phase of an arm, but for its steps."""
    grid = {"transforms": {"freeze": {}, "gguf-grid": {"type": mix}}}
    arms: dict[str, dict[str, Any]] = {
        "finetuned": {**CE, "transforms": {"freeze": {}}},
        "qat": {**CE, "transforms": {"freeze": {}, "qat": {}}},
        "grid": {**CE, **grid},
        "qad": {"losses": {"forward-kl": {}}, "teacher": {"use": "initial-student"}, **grid},
    }
    return arms[arm]


def _trained(options: argparse.Namespace, phase: dict[str, Any] | None) -> Path:
    """Train an arm and return its model's folder; the first phase is made once for all."""
    heal = {**CE, "steps": options.heal, "transforms": {"freeze": {}}}
    more = {"arm": {**phase, "steps": options.steps, "trainer": {"learning_rate": options.rate}}} if phase else {}
    begun = time.monotonic()
    results = kdtool.run(
        {
            "name": "qat-gguf",
            "corpus": {"use": "python-source"},
            "rows": {"use": "packed", "length": 256, "maximum_tokens": 65536},
            "teacher": {"use": "smollm2"},
            "student": options.student,
            "trainer": {"use": "standard", "batch": 2, "learning_rate": options.heal_rate},
            "train": {"heal": heal, **more},
            "trackers": {"console": {}},
        },
        out=options.out,
        store=options.out / "store",
    )
    print(f"# {phase}: {time.monotonic() - begun:.0f} s", flush=True)
    return results.arms[0].path


def _opened(folder: Path) -> TransformersModel:
    return open_model(folder, dtype=torch.float32)


def _texts(split: str, options: argparse.Namespace) -> list[str]:
    corpus = PythonSource(PythonSource.Config(test_files=options.documents))
    bodies = [example.body for example in corpus.kdtool_examples(make_run(options.out)) if example.split == split]
    return [body.text[:1500] for body in bodies if isinstance(body, kdtool.Text)][: options.documents]


def _windows(model: TransformersModel, texts: list[str]) -> list[list[int]]:
    context = model.tokenizer.scoring_context
    return [[*context, *model.tokenizer.encode(text)][:WINDOW] for text in texts]


def _log_probabilities(model: TransformersModel, window: Sequence[int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.model(input_ids=torch.tensor([window])).logits[0]
    return logits.log_softmax(-1)


def _compared(model: TransformersModel, windows: list[list[int]], expected: list[Tensor]) -> tuple[float, float]:
    """Return perplexity on held-out windows, and the mean KL divergence from `expected`."""
    likelihoods, divergences = [], []
    for window, reference in zip(windows, expected, strict=True):
        found = _log_probabilities(model, window)
        likelihoods.append(found[:-1].gather(1, torch.tensor(window)[1:, None]))
        divergences.append((reference.exp() * (reference - found)).sum(-1)[:-1])
    return math.exp(-float(torch.cat(likelihoods).mean())), float(torch.cat(divergences).mean())


def _requantise(model: Any, mix: str, importance: Importance) -> str:
    """Replace weights by what a GGUF of that type holds, and return how many weights got which type."""
    counts: dict[str, int] = {}
    shape, name_in_file = ModelShape.of(model.config), names_in_file(model.config)
    for name, weight in model.named_parameters():
        stored = f"{name_in_file(name.removesuffix('.weight'))}.weight"
        kind = tensor_type(mix, stored, tuple(weight.shape), shape, weighted=bool(importance))
        if weight.ndim == 2:
            rounded = round_values(weight.detach().float().numpy(), kind, importance.get(stored))
            weight.data = torch.from_numpy(rounded).to(weight.dtype)
            counts[kind.name] = counts.get(kind.name, 0) + weight.numel()
    return ", ".join(f"{kind} {count / 1e6:.1f} M" for kind, count in counts.items())


if __name__ == "__main__":
    main()

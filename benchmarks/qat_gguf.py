"""Does quantisation-aware training help a later GGUF? The same finetuning with and without `qat`, then llama.cpp's blocks.

    python benchmarks/qat_gguf.py [--student JSON] [--heal 80] [--steps 40] [--out FOLDER]

A student cut from SmolLM2-135M learns Python source again; from there two arms take equally many steps at the same rate, one
of them on qat's grid. Each arm's weights are then quantised as the exporter `gguf` does it, without an importance matrix,
turned back into floats and scored in float32 on held-out files. llama.cpp also rounds activations to 8 bits while it
computes; that is not in these figures.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import kdtool
import torch
from gguf.quants import dequantize
from kdtool_corpus_python_source import PythonSource
from kdtool_exporter_gguf._names import names_in_file
from kdtool_exporter_gguf._quantise import encode
from kdtool_exporter_gguf._tensor_types import ModelShape, tensor_type
from kdtool_testing import make_run
from kdtool_transformers import TransformersRuntime, open_model

STUDENT = {"use": "pruned", "layers": 10, "hidden": 512, "heads": 4, "kv_heads": 2}
SCHEMES = ("as trained", "q8_0", "q4_0", "q4_k_m")


def main() -> None:
    """Train both arms, quantise both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=json.loads, default=STUDENT)
    parser.add_argument("--heal", type=int, default=80)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("qat-gguf"))
    options = parser.parse_args()
    texts = _held_out(options.documents, options.out)
    found: dict[str, dict[str, float]] = {}
    arms: dict[str, dict[str, Any]] = {"plain": {"freeze": {}}, "qat": {"freeze": {}, "qat": {}}}
    for arm, transforms in arms.items():
        folder = _trained(options, transforms)
        found[arm] = {}
        for scheme in SCHEMES:
            model = open_model(folder, dtype=torch.float32)
            types = _requantise(model.model, scheme)
            found[arm][scheme] = _perplexity(TransformersRuntime(model), texts)
            print(f"{arm:>6} {scheme:>11}: {found[arm][scheme]:8.3f}  {types}", flush=True)
    (options.out / "qat_gguf.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n| weights | finetuned | finetuned with qat |\n|---|---|---|")
    for scheme in SCHEMES:
        print(f"| {scheme} | {found['plain'][scheme]:.2f} | {found['qat'][scheme]:.2f} |")


def _trained(options: argparse.Namespace, transforms: dict[str, Any]) -> Path:
    """Train an arm and return its model's folder; the first phase is made once for both."""
    finetune = {"losses": {"ce": {}}, "steps": options.steps, "transforms": transforms}
    results = kdtool.run(
        {
            "name": "qat-gguf",
            "corpus": {"use": "python-source"},
            "rows": {"use": "packed", "length": 256, "maximum_tokens": 65536},
            "teacher": {"use": "smollm2"},
            "student": options.student,
            "trainer": {"use": "standard", "batch": 2, "learning_rate": 1e-3},
            "train": {
                "heal": {"losses": {"ce": {}}, "steps": options.heal, "transforms": {"freeze": {}}},
                "finetune": {**finetune, "trainer": {"learning_rate": options.rate}},
            },
            "trackers": {"console": {}},
        },
        out=options.out,
        store=options.out / "store",
    )
    return results.arms[0].path


def _held_out(documents: int, folder: Path) -> list[str]:
    corpus = PythonSource(PythonSource.Config(test_files=documents))
    folder.mkdir(parents=True, exist_ok=True)
    bodies = [example.body for example in corpus.kdtool_examples(make_run(folder)) if example.split == "test"]
    return [body.text[:1500] for body in bodies if isinstance(body, kdtool.Text)][:documents]


def _perplexity(runtime: TransformersRuntime, texts: list[str]) -> float:
    scores = list(runtime.score(texts))
    return math.exp(-sum(score.log_likelihood for score in scores) / sum(score.tokens for score in scores))


def _requantise(model: Any, scheme: str) -> str:
    """Replace weights by what a GGUF of that scheme holds, and return how many weights got which type."""
    counts: dict[str, int] = {}
    if scheme == "as trained":
        return ""
    shape, name_in_file = ModelShape.of(model.config), names_in_file(model.config)
    for name, weight in model.named_parameters():
        stored = f"{name_in_file(name.removesuffix('.weight'))}.weight"
        kind = tensor_type(scheme, stored, tuple(weight.shape), shape, weighted=False)
        if weight.ndim == 2:
            values = weight.detach().float().numpy()
            weight.data = torch.from_numpy(dequantize(encode(values, kind), kind)).to(weight.dtype)
            counts[kind.name] = counts.get(kind.name, 0) + weight.numel()
            assert weight.isfinite().all(), name
    return ", ".join(f"{kind} {count / 1e6:.1f} M" for kind, count in counts.items())


if __name__ == "__main__":
    main()

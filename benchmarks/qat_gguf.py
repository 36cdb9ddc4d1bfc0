"""Does quantisation-aware training help a later GGUF? The same finetuning with and without `qat`, then llama.cpp's blocks.

    python benchmarks/qat_gguf.py [--student JSON] [--heal 80] [--steps 40] [--out FOLDER]

A student cut from SmolLM2-135M learns Python source again; from there two arms take equally many steps at the same rate, one
of them on qat's grid. Each arm's weights are then quantised by llama.cpp's own code (`ggml_quantize_chunk` in xllamacpp's
library), turned back into floats and scored in float32 on held-out files. The types that llama.cpp gives each tensor under
q4_k_m, and what it falls back to where rows are no multiples of 256, are written down here: no Python package exposes the
program that chooses them. llama.cpp also rounds activations to 8 bits while it computes; that is not in these figures.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
import torch
import xllamacpp.xllamacpp
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from kdtool_corpus_python_source import PythonSource
from kdtool_testing import make_run
from kdtool_transformers import TransformersRuntime, open_model

STUDENT = {"use": "pruned", "layers": 10, "hidden": 512, "heads": 4, "kv_heads": 2}
FALLBACK = {GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q6_K: GGMLQuantizationType.Q8_0}
SCHEMES = ("as trained", "q8_0", "q4_1", "q4_k_m")


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
    for name, weight, kind in list(_types(model, scheme)):
        values = weight.detach().float().numpy()
        weight.data = torch.from_numpy(dequantize(_quantised(values, kind), kind)).to(weight.dtype)
        counts[kind.name] = counts.get(kind.name, 0) + weight.numel()
        assert weight.isfinite().all(), name
    return ", ".join(f"{kind} {count / 1e6:.1f} M" for kind, count in counts.items())


def _types(model: Any, scheme: str) -> Iterator[tuple[str, Any, GGMLQuantizationType]]:
    """Yield each matrix of a Llama with the type that llama.cpp stores it in."""
    layers = model.config.num_hidden_layers
    kind_of_layers = GGMLQuantizationType["Q4_K" if scheme == "q4_k_m" else scheme.upper()]
    for name, weight in model.named_parameters():
        if weight.ndim != 2:
            continue
        kind = kind_of_layers
        layer = int(name.split(".")[2]) if ".layers." in name else -1
        sensitive = "v_proj" in name or "down_proj" in name
        if scheme == "q4_k_m" and sensitive and _more_bits(layer, layers):
            kind = GGMLQuantizationType.Q6_K
        if scheme != "q8_0" and layer < 0:  # the head, or embeddings that are the head, too
            kind = GGMLQuantizationType.Q6_K
        yield name, weight, FALLBACK.get(kind, kind) if weight.shape[1] % 256 else kind


def _more_bits(layer: int, layers: int) -> bool:
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


_library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
_library.ggml_quantize_chunk.restype = ctypes.c_size_t
_library.ggml_quantize_chunk.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    *[ctypes.c_int64] * 3,
    ctypes.c_void_p,
]


def _quantised(values: np.ndarray[Any, Any], kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """Quantise rows of float32 by llama.cpp's own code, without an importance matrix."""
    rows, width = values.shape
    block, size = GGML_QUANT_SIZES[kind]
    found = np.zeros((rows, width // block * size), dtype=np.uint8)
    values = np.ascontiguousarray(values)
    written = _library.ggml_quantize_chunk(kind.value, values.ctypes.data, found.ctypes.data, 0, rows, width, None)
    if written != found.nbytes:
        raise RuntimeError(f"{kind.name}: {written} bytes were written, not {found.nbytes}")
    return found


if __name__ == "__main__":
    main()

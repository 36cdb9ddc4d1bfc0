"""Compare the memory that `kdtool check` predicts with that of a run: peak resident memory of 12 recipes drawn by a seed.

    python benchmarks/check_memory.py [--seed 1] [--fit] [--json FILE]

Each recipe is predicted by `kdtool.check`, then run for a few steps by `kdtool run`, whose greatest resident memory (as the
system counts it; Linux alone) is compared. It ends with 1 when a prediction is more than 15 % away. Two constants of the
estimate are fitted to such runs on CPUs, everything else is counted: 580 MB for the process (`_PROCESS_BYTES` in core) and
10 % of allocator slack (`_SLACK` of the trainer). `--fit` takes six recipes that are never drawn, for fitting both
anew; `--json` writes the parts of each prediction beside the measurement. Takes about a minute a recipe on two cores;
memory does not depend on how busy the machine is. Needs kdtool's packages and nothing from a network.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TOLERANCE = 0.15
STEPS = 3
_END = "<|endoftext|>"
DRAWN = 12

AXES: Mapping[str, tuple[Any, ...]] = {
    "student": ("gpt-40M", "gpt-80M", "smallcoder-40m", "pruned", "pretrained"),
    "model": ("wide", "narrow"),
    "tied": (True, False),
    "batch": (1, 2, 4),
    "length": (256, 512, 1024),
    "accumulation": (1, 2),
    "dtype": ("float32", "bfloat16"),
    "teacher": ("beside", "cached", "none"),
    "hidden": (False, True),
    "method": ("full", "lora", "gradient-checkpointing"),
}
"""The grid. `model` is the teacher, and what is pruned or goes on learning; `tied` says so of gpt alone."""

MODELS: Mapping[str, Mapping[str, Any]] = {
    "wide": {"vocabulary": 16_384, "hidden": 768, "layers": 8, "dtype": "float32"},
    "narrow": {"vocabulary": 32_768, "hidden": 576, "layers": 12, "dtype": "bfloat16"},
}
"""Models of the Llama class with random weights: what they are stored in is how a teacher is held."""

FITTED: tuple[Mapping[str, Any], ...] = tuple(
    dict(zip(AXES, values, strict=True))
    for values in (
        ("gpt-80M", "narrow", True, 2, 512, 1, "bfloat16", "beside", False, "full"),
        ("gpt-40M", "wide", False, 4, 256, 2, "float32", "none", False, "full"),
        ("pruned", "narrow", True, 1, 1024, 1, "float32", "cached", True, "full"),
        ("smallcoder-40m", "wide", True, 2, 512, 1, "bfloat16", "cached", False, "gradient-checkpointing"),
        ("pretrained", "wide", True, 2, 512, 1, "bfloat16", "none", False, "lora"),
        ("pruned", "wide", True, 1, 1024, 2, "bfloat16", "beside", True, "gradient-checkpointing"),
    )
)
"""Recipes that are never drawn, for fitting the constants of the estimate anew."""


def drawn(seed: int) -> list[dict[str, Any]]:
    """Return the recipes of a seed: all different, of at most 1,024 tokens at once, so that each takes a minute."""
    numbers, found = random.Random(seed), []
    while len(found) < DRAWN:
        case = {axis: numbers.choice(values) for axis, values in AXES.items()}
        if not case["student"].startswith("gpt"):
            case["tied"] = True
        if case["teacher"] == "none":
            case["hidden"] = False
        if case["batch"] * case["length"] <= 1024 and case not in found and case not in FITTED:
            found.append(case)
    return found


def recipe_of(case: Mapping[str, Any], models: Path) -> dict[str, Any]:
    """Write a case as a recipe."""
    kind, _, size = case["student"].partition("-")
    folder = str(models / case["model"])
    recipe: dict[str, Any] = {
        "name": "memory",
        "corpus": {"use": "python-source", "train_files": 60, "validation_files": 2, "test_files": 2},
        "rows": {"use": "packed", "length": case["length"], "maximum_tokens": 16 * case["length"]},
        "trainer": {
            "use": "standard",
            "batch": case["batch"],
            "accumulation": case["accumulation"],
            "dtype": case["dtype"],
        },
        "train": {"steps": STEPS, "losses": {"ce": {}}, "transforms": {}},
    }
    if case["teacher"] != "none" or kind == "pruned":
        recipe["teacher"] = {"use": "causal-lm", "model": folder, "dtype": MODELS[case["model"]]["dtype"]}
    if case["teacher"] != "none":
        recipe["train"]["losses"] = {"forward-kl": {}, **({"hidden": {}} if case["hidden"] else {})}
    if case["teacher"] == "cached":
        recipe["signals"] = {"use": "states"}
    if case["method"] != "full":
        recipe["train"]["transforms"] = {case["method"]: {}}
    recipe["student"] = {
        "gpt": {"use": "gpt", "parameters": size, "tied": case["tied"], "tokenizer": folder},
        "smallcoder": {"use": "smallcoder", "size": size, "tokenizer": folder},
        "pruned": {"use": "pruned", "layers": MODELS[case["model"]]["layers"] // 2},
        "pretrained": {"use": "pretrained", "model": folder},
    }[kind]
    return recipe


def measured(recipe: Mapping[str, Any], **environment: str) -> int:
    """Run a recipe by `kdtool run`, with more in its environment, and return its greatest resident memory in bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "kdtool", "run", str(folder / "recipe.yaml")]
        command += ["--out", str(folder / "runs"), "--store", str(folder / "store")]
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **environment})
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"a run failed:\n{(folder / 'said').read_text(errors='replace')[-3000:]}")
    return used.ru_maxrss * 1024


def make_models(folder: Path) -> None:
    """Write the models of the grid with tokenizers trained on the standard library."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = [path.read_text("utf-8", "ignore") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    for name, shape in MODELS.items():
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=shape["vocabulary"],
            special_tokens=[_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        missing = shape["vocabulary"] - inner.get_vocab_size()
        inner.add_tokens([f"<|unused{number}|>" for number in range(missing)])
        PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=_END).save_pretrained(folder / name)
        config = LlamaConfig(
            vocab_size=shape["vocabulary"],
            hidden_size=shape["hidden"],
            intermediate_size=256 * round(shape["hidden"] / 96),
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["hidden"] // 64,
            num_key_value_heads=shape["hidden"] // 192,
            tie_word_embeddings=True,
        )
        dtype = getattr(torch, shape["dtype"])
        LlamaForCausalLM(config).to(dtype).save_pretrained(folder / name)


def title(case: Mapping[str, Any]) -> str:
    """Say a case in a line."""
    words = [case["student"], "" if case["tied"] else "untied", case["model"], f"{case['batch']} × {case['length']}"]
    words += [f"× {case['accumulation']}" if case["accumulation"] > 1 else "", case["dtype"], case["method"]]
    words += [f"teacher {case['teacher']}", "hidden" if case["hidden"] else ""]
    return ", ".join(word for word in words if word)


def main() -> int:
    """Predict, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fit", action="store_true", help="six recipes for fitting the constants")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; some 3 GB each")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    import kdtool

    cases = list(FITTED) if options.fit else drawn(options.seed)
    print("the six recipes of the fit" if options.fit else f"{DRAWN} recipes, seed {options.seed}", flush=True)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        recipes = [recipe_of(case, Path(folder)) for case in cases]
        predicted = [kdtool.check(recipe)["forecast"]["memory"] for recipe in recipes]
        with ThreadPoolExecutor(options.jobs) as pool:
            for case, memory, seen in zip(cases, predicted, pool.map(measured, recipes), strict=True):
                found.append({"case": dict(case), "memory": memory, "measured": seen})
                off = memory["peak"] / seen - 1
                print(f"| {title(case)} | {memory['peak'] / 1e9:.2f} | {seen / 1e9:.2f} | {off:+.0%} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    worst = max(abs(entry["memory"]["peak"] / entry["measured"] - 1) for entry in found)
    print(f"farthest: {worst:.1%}, allowed {TOLERANCE:.0%}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

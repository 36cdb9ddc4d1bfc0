"""Measure the size of GGUF files and their memory in llama.cpp, in the shapes of SmallCoder and Code Craft.

    python benchmarks/gguf_shapes.py [--types f16,q4_k_m] [--systems smallcoder] [--threads 2] [--read 1024]

Each student has the shape that its full recipe asks for, random weights, and a tokenizer of as many tokens, trained on the
standard library: neither size nor memory depends on the weights. The exporter `gguf` writes the files. Memory is the
measurement `resident-memory` of the evaluator `efficiency`: of llama.cpp's process, opened for a context of 4,096 tokens,
which it reserves at once, after a prompt of `--read` tokens. Opened for 256 tokens, it holds less by what the context takes:
KV cache and buffers. 10 minutes on two idle cores, 3 GB of memory, no network. Prints the table of docs/systems.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
import torch
import yaml
from kdtool_evaluator_efficiency._timed import Answering
from kdtool_evaluator_efficiency._turns import Amount
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.calibration import Prepared
from kdtool_export.gguf.quantisation import write_quantised
from kdtool_export.gguf.runtime import GGUFRuntime
from kdtool_student_pruned import Pruned
from kdtool_student_smallcoder import SmallCoder
from kdtool_teacher_causal_lm import CausalLM
from kdtool_teacher_codellama import CodeLlama
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_code_llama_tokenizer
from kdtool_transformers import TransformersModel, open_tokenizer
from transformers import AutoModelForCausalLM

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TYPES = "f32,f16,q8_0,q6_k,q5_k_m,q4_k_m,q3_k_m,q2_k"
CONTEXT, SHORT = 4096, 256


class System(NamedTuple):
    """Parts of a recipe, and the published claims by type; "context" is that of the KV cache."""

    student: type[kdtool.Student]
    teacher: type[kdtool.Teacher]
    claims: dict[str, str]


SYSTEMS = {
    "smallcoder": System(
        SmallCoder, CausalLM, {"f16": "1.2 GB", "q8_0": "700 MB", "context": "KV cache 200 to 400 MB"}
    ),
    "code-craft": System(Pruned, CodeLlama, {"q4_k_m": "about 1 GB"}),
}


def main() -> None:
    """Write and measure the files, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--read", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| student | type | file | memory at a context of 4,096 | of which for the context | claimed |")
    print("|---|---|---|---|---|---|")
    for name in options.systems.split(","):
        with tempfile.TemporaryDirectory() as folder:
            measure(name, options.types.split(","), Path(folder), options)


def measure(name: str, types: list[str], out: Path, options: argparse.Namespace) -> None:
    """Write a system's student in each type, and print a line for each."""
    student, claims = build(name, out / f"{name}-tokenizer"), SYSTEMS[name].claims
    for mix in types:
        run, config = make_run(out, name=name), GGUF.Config(type=mix, imatrix="none")
        file = write_quantised(run, student, Prepared([], [], None, 0), config)
        whole, short = (resident(file, context, options) for context in (CONTEXT, SHORT))
        cells = (name, mix, megabytes(file.stat().st_size), megabytes(whole), megabytes(whole - short))
        print(f"| {' | '.join(cells)} | {claims.get(mix, '')} |", flush=True)
        file.unlink()
    size = student.model.config
    cache = 2 * size.num_hidden_layers * size.num_key_value_heads * size.head_dim * CONTEXT * 2
    print(f"| {name} | KV cache in f16, computed | | {megabytes(cache)} | | {claims.get('context', '')} |", flush=True)


def build(name: str, folder: Path) -> TransformersModel:
    """Build the student of a full recipe with random weights."""
    folder.mkdir(parents=True)
    recipe, system = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")), SYSTEMS[name]
    run = make_run(folder, {"teacher": component(system.teacher, recipe["teacher"])}, offline=True)
    outline: Any = component(system.student, recipe["student"]).kdtool_describe(run)
    config = outline.model.config
    save_code_llama_tokenizer(folder, config.vocab_size, 20_000_000, infilling=config.vocab_size == 32_016)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    print(f"{name}: {model.num_parameters():,} parameters", flush=True)
    return TransformersModel(model, open_tokenizer(folder, offline=True))


def component(kind: type[Any], settings: dict[str, Any]) -> Any:
    """Build a component from its part of a recipe."""
    return kind(kind.Config.model_validate({key: value for key, value in settings.items() if key != "use"}))


def resident(file: Path, context: int, options: argparse.Namespace) -> int:
    """Return the bytes that llama.cpp's process holds, opened for a context, once it has answered a prompt."""
    with GGUFRuntime(file, context=context, threads=options.threads) as runtime:
        return (
            Answering(runtime, Amount(prompt=64, generated=2, seconds=1.0), None).read(min(options.read, context)).size
        )


def megabytes(size: float) -> str:
    """Write a size."""
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()

"""Measure kdtool's standard trainer against TRL's distillation trainers: tokens a second and peak memory.

    python benchmarks/against_trl.py                       # the peer: trl.DistillationTrainer
    python benchmarks/against_trl.py --peer gkd            # the peer: trl.experimental.gkd.GKDTrainer
    python benchmarks/against_trl.py --teacher FOLDER      # any folder with a transformers model

All train the same student (a third of the teacher's layers) on the same rows: mixed precision in the same dtype, AdamW,
gradients clipped at 1. The peer, kdtool's `jsd` and `plain` run the teacher online and minimise the generalised
Jensen-Shannon divergence (beta 0.5). `plain` does so in a loop of plain PyTorch with transformers' attention and all
logits: a baseline without any trainer. kdtool's `cached` is forward KL on 20 systematic samples a token, read from disk and
decoded: other work for the same purpose. `products` are the matrix products of such steps alone: the lower bound for every
program that computes the same.

Each program is a process of its own that stays resident; they take one step each in turn, so that a busy machine disturbs
all alike, and a ratio is taken turn by turn. TRL gets an environment of its own, made with uv or venv + pip from the
configured package index (kept in --environment).

Rows are documents of Python's standard library cut to equal length, one document a row: TRL's trainers do not keep packed
documents apart, so this is the case where all compute the same. Each trainer shuffles rows by itself, so losses of single
steps differ a little. kdtool compiles its losses or not as `compile: auto` decides for a phase of 1,000 steps. Linux and
macOS only. Needs 20 GB of memory at the default sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from lockstep import machine, run_in_turns, summary, table

DRAWS = 20
OURS, OTHERS = ("jsd", "cached"), ("plain", "products")
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Measure, print tables and write JSON."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="kdtool-trl-") as folder:
        result = _measured(arguments, Path(folder))
    print(table(result["programs"]))
    print(_verdict(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kdtool" / "benchmark-trl"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", type=Path, help="folder of the teacher; default: the plugin smollm2's")
    parser.add_argument(
        "--peer", choices=("distillation", "gkd"), default="distillation", help="which trainer of TRL's"
    )
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each program, after one to warm up")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument(
        "--programs", nargs="+", default=[*OURS, *OTHERS], choices=[*OURS, *OTHERS], help="fewer take less memory"
    )
    parser.add_argument("--environment", type=Path, default=cache, help="where TRL is installed")
    parser.add_argument(
        "--threads", type=int, help="threads of each program; 1 gives steady CPU times on a busy machine"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def _measured(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    from training_program import default_dtype, default_teacher, prepare

    teacher = arguments.teacher or default_teacher(work)
    settings = {"teacher": str(teacher), "batch": arguments.batch, "length": arguments.length}
    settings |= {"dtype": default_dtype(), "samples": DRAWS}
    prepare(work, settings)
    trl, before = _trl_python(arguments.environment), machine()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    alone = work / "trl"  # so that the other environment finds none of our packages beside the program
    alone.mkdir()
    for name in ("trl_programs.py", "lockstep.py"):
        shutil.copy(HERE / name, alone)
    commands = {"trl": [trl, str(alone / "trl_programs.py"), arguments.peer, str(work)]}
    for name in arguments.programs:
        program = ["training_program.py", name] if name in OURS else [f"{name}_program.py"]
        commands[name] = [sys.executable, str(HERE / program[0]), *program[1:], str(work)]
    tokens = arguments.batch * arguments.length
    programs = summary(run_in_turns(commands, arguments.steps, work), tokens)
    floors = json.loads((work / "floors.json").read_text(encoding="utf-8")) if "products" in programs else {}
    trained = [name for name in (*OURS, "plain") if name in programs]
    return {
        "settings": {**settings, "peer": arguments.peer, "teacher": teacher.name, "tokens_per_step": tokens},
        "machine": {**before, "load_after": os.getloadavg()},
        "programs": programs,
        "floors": floors,
        "speed": {name: _ratios(programs, name, "trl") for name in trained},
        "over_plain": {name: _ratios(programs, name, "plain") for name in OURS if {name, "plain"} <= {*programs}},
        "memory": {name: programs[name]["peak_rss_gb"] / programs["trl"]["peak_rss_gb"] for name in trained},
    }  # fmt: skip


def _ratios(programs: dict[str, Any], name: str, reference: str) -> dict[str, float]:
    """Return how many times as fast a program was as the reference: median, least and most over the turns."""
    pairs = zip(programs[reference]["seconds"], programs[name]["seconds"], strict=True)
    ratios = [theirs / ours for theirs, ours in pairs]
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios)}


def _verdict(result: dict[str, Any]) -> str:
    lines = [
        f"{name}: {ratio['median']:.2f} x as fast as TRL ({ratio['least']:.2f} to {ratio['most']:.2f} over the turns), "
        f"{result['memory'][name]:.2f} x its peak memory"
        for name, ratio in result["speed"].items()
    ]
    lines += [
        f"{name}: {ratio['median']:.2f} x as fast as plain ({ratio['least']:.2f} to {ratio['most']:.2f})"
        for name, ratio in result["over_plain"].items()
    ]
    if floors := dict(result["floors"]):
        rate, _ = floors.pop("GFLOP/s of 2048 cubed"), floors.pop("2048 cubed")
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in floors.items())
        lines.append(f"products alone: {parts}; 2048 cubed at {rate:.0f} GFLOP/s")
    return "\n".join(lines)


def _trl_python(environment: Path) -> str:
    """Return the interpreter of an environment with TRL; make it if it is not there."""
    python = environment / "bin" / "python"
    if not (environment / "complete").is_file():
        constraints = HERE.parent / "constraints.txt"
        print(f"installing TRL with PyTorch and transformers into {environment} (about 1 GB) ...", file=sys.stderr)
        find_links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
        variables = {
            **os.environ,
            **({"UV_FIND_LINKS": find_links, "PIP_FIND_LINKS": find_links} if find_links else {}),
        }
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
        subprocess.run([*install, "-c", str(constraints), "trl", "torch", "transformers"], env=variables, check=True)
        (environment / "complete").touch()
    return str(python)


if __name__ == "__main__":
    sys.exit(main())

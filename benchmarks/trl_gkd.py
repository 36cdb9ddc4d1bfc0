"""Measure kdtool's standard trainer against TRL's GKD trainer: tokens a second and peak memory.

    python benchmarks/trl_gkd.py                       # teacher: SmolLM2-135M-Instruct, as the plugin smollm2 finds it
    python benchmarks/trl_gkd.py --teacher FOLDER      # any folder with a transformers model

All train the same student (a third of the teacher's layers) on the same rows: mixed precision in the same dtype, AdamW,
gradients clipped at 1. TRL and kdtool's `jsd` have the teacher online and generalised Jensen-Shannon divergence (beta
0.5); kdtool's `cached` is forward KL on 20 systematic draws a token, read from disk and decoded. `products` are the
matrix products of such steps alone: the time below which no program comes that computes the same. Each program is a
process of its own that stays resident; they take one step each in turn, so that a busy machine disturbs all alike. TRL
gets an environment of its own, made with uv or venv + pip from the configured package index (kept in --environment).

Rows are documents of Python's standard library cut to equal length, one document a row: TRL's trainer does not keep
packed documents apart, so this is the case where both compute the same. kdtool compiles its losses or not as `compile:
auto` decides for a phase of 1,000 steps. Linux and macOS only. Needs 18 GB of memory at the default sizes.
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
from typing import Any

from lockstep import Stopwatch, machine, run_in_turns, summary, table

TARGETS = {"jsd": 4.5, "cached": 7.5, "memory": 0.4}
PHASE_STEPS = 1000
DRAWS = 20
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Measure, print tables and write JSON; 1 if a target is missed."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="kdtool-trl-") as folder:
        result = _measured(arguments, Path(folder))
    print(table(result["programs"]))
    print(_verdict(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(result[name] >= TARGETS[name] for name in ("jsd", "cached")) and _lean(result) else 1


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kdtool" / "benchmark-trl"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", type=Path, help="folder of the teacher; default: the plugin smollm2's")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each program, after one to warm up")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
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
    settings |= {"dtype": default_dtype(), "draws": DRAWS}
    prepare(work, settings)
    trl, before = _trl_python(arguments.environment), machine()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    alone = work / "trl"  # so that the other environment finds none of our packages beside the program
    alone.mkdir()
    for name in ("trl_gkd.py", "lockstep.py"):
        shutil.copy(HERE / name, alone)
    commands = {"trl": [trl, str(alone / "trl_gkd.py"), "--program", str(work)]}
    commands |= {
        name: [sys.executable, str(HERE / "training_program.py"), name, str(work)] for name in ("jsd", "cached")
    }
    commands["products"] = [sys.executable, str(HERE / "products_program.py"), str(work)]
    tokens = arguments.batch * arguments.length
    programs = summary(run_in_turns(commands, arguments.steps, work), tokens)
    floors = json.loads((work / "floors.json").read_text(encoding="utf-8"))
    reference = programs["trl"]
    return {
        "settings": {**settings, "teacher": teacher.name, "tokens_per_step": tokens},
        "machine": {**before, "load_after": os.getloadavg()},
        "programs": programs,
        "floors": floors,
        "jsd": programs["jsd"]["tokens_per_second"] / reference["tokens_per_second"],
        "cached": programs["cached"]["tokens_per_second"] / reference["tokens_per_second"],
        "memory": {
            name: programs[name]["peak_rss_gb"] / reference["peak_rss_gb"] for name in ("jsd", "cached")
        },
    }  # fmt: skip


def _lean(result: dict[str, Any]) -> bool:
    return all(share <= TARGETS["memory"] for share in result["memory"].values())


def _verdict(result: dict[str, Any]) -> str:
    floors, trl = dict(result["floors"]), result["programs"]["trl"]["median_seconds"]
    rate = floors.pop("GFLOP/s of 2048 cubed")
    floors.pop("2048 cubed")
    student = floors["student's layers"] + floors["student's head"]
    lines = [
        f"{name}: {result[name]:.2f} x TRL's tokens/s (target: at least {TARGETS[name]}), at most {trl / floor:.2f} x with "
        f"the products alone; {result['memory'][name]:.2f} x its peak memory (target: at most {TARGETS['memory']})"
        for name, floor in (("jsd", sum(floors.values())), ("cached", student))
    ]
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in floors.items())
    return "\n".join([*lines, f"products alone: {parts}; 2048 cubed at {rate:.0f} GFLOP/s"])


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


def trl_program(work: Path) -> None:
    """Train with TRL's GKD trainer until the driver has gone."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    watch = Stopwatch({"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__})
    dtype = getattr(torch, settings["dtype"])
    losses: list[float] = []

    class Telling(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.lap(losses[-1])

    class Noting(GKDTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append(float(loss.detach()))
            return loss

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        ids = torch.tensor([example["input_ids"] for example in examples])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    config = GKDConfig(
        output_dir=str(work / "trl-output"), max_steps=PHASE_STEPS, per_device_train_batch_size=settings["batch"],
        lmbda=0.0, beta=0.5, temperature=1.0, learning_rate=1e-4, max_grad_norm=1.0, bf16=dtype == torch.bfloat16,
        gradient_checkpointing=False, optim="adamw_torch_fused", weight_decay=0.01, report_to=[], save_strategy="no",
        logging_steps=1, disable_tqdm=True, max_length=settings["length"], use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    rows = json.loads((work / "rows.json").read_text(encoding="utf-8"))
    Noting(
        model=AutoModelForCausalLM.from_pretrained(work / "student", dtype=torch.float32),
        teacher_model=AutoModelForCausalLM.from_pretrained(settings["teacher"], dtype=dtype),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(work / "student"),
        data_collator=collate,
        train_dataset=Dataset.from_list([{"input_ids": row} for row in rows]),
        callbacks=[Telling()],
    ).train()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--program"]:
        trl_program(Path(sys.argv[2]))
    else:
        sys.exit(main())

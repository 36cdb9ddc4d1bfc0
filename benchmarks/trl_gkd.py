"""Measure kdtool's standard trainer against TRL's GKD trainer: tokens a second and peak memory.

    python benchmarks/trl_gkd.py                       # teacher: SmolLM2-135M-Instruct, as the plugin smollm2 finds it
    python benchmarks/trl_gkd.py --teacher FOLDER      # any folder with a transformers model

Both train the same student (a third of the teacher's layers) on the same rows, with the teacher online, generalised
Jensen-Shannon divergence (beta 0.5), mixed precision in the same dtype, AdamW, gradients clipped at 1. Each program is a
process of its own that stays resident; they take one step each in turn, so that a busy machine disturbs both alike. TRL gets
an environment of its own, made with uv or venv + pip from the configured package index (kept in --environment).

Rows are documents of Python's standard library cut to equal length, one document a row: TRL's trainer does not keep packed
documents apart, so this is the case where both compute the same. kdtool compiles its losses or not as `compile: auto`
decides for a phase of 1,000 steps. Linux and macOS only (peak memory comes from getrusage).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

MARK = "@@"
"""Begins a line of a program's output that is meant for the driver."""
TARGETS = {"speed": 4.0, "memory": 0.6}
PHASE_STEPS = 1000


def main() -> int:
    """Measure, print a table and write JSON; 1 if a target is missed."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="kdtool-trl-") as folder:
        work = Path(folder)
        teacher = arguments.teacher or _default_teacher(work)
        settings = {"teacher": str(teacher), "batch": arguments.batch, "length": arguments.length, "dtype": _dtype()}
        _prepare(work, settings)
        pythons = {"trl": _trl_python(arguments.environment), "kdtool": sys.executable}
        load_before = os.getloadavg()
        if arguments.threads:
            os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        measured = _lockstep(work, settings, pythons, arguments.steps)
    result = _summary(measured, settings, load_before)
    print(_table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if result["speed"] >= TARGETS["speed"] and result["memory"] <= TARGETS["memory"] else 1


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


def _lockstep(
    work: Path, settings: dict[str, Any], pythons: dict[str, str], steps: int
) -> dict[str, list[dict[str, Any]]]:
    """Start both programs, then let them take one step each in turn."""
    programs = {}
    (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    try:
        for name, python in pythons.items():
            errors = (work / f"{name}.log").open("w", encoding="utf-8")
            programs[name] = subprocess.Popen(
                [python, __file__ if name == "kdtool" else str(_copied(work)), "--program", name, str(work)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        measured: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
        for name, program in programs.items():
            _answer(work, name, program)  # ready
        for _ in range(steps + 1):
            for name, program in programs.items():
                assert program.stdin
                program.stdin.write("go\n")
                program.stdin.flush()
                measured[name].append(_answer(work, name, program))
                print(name, measured[name][-1], file=sys.stderr, flush=True)
    finally:
        for program in programs.values():
            program.kill()
            program.wait()
    return measured


def _copied(work: Path) -> Path:
    """Copy this file, so that the other environment finds no package beside it."""
    return Path(shutil.copy(__file__, work / "program.py"))


def _answer(work: Path, name: str, program: subprocess.Popen[str]) -> dict[str, Any]:
    assert program.stdout
    for line in program.stdout:
        if line.startswith(MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return answer
    log = (work / f"{name}.log").read_text(encoding="utf-8")
    raise SystemExit(f"{name} ended early:\n{log[-4000:]}")


def _summary(
    measured: dict[str, list[dict[str, Any]]], settings: dict[str, Any], load: tuple[float, ...]
) -> dict[str, Any]:
    tokens = settings["batch"] * settings["length"]
    programs = {}
    for name, answers in measured.items():
        timed = answers[1:]
        seconds = [answer["seconds"] for answer in timed]
        programs[name] = {
            "seconds": seconds,
            "median_seconds": statistics.median(seconds),
            "tokens_per_second": tokens / statistics.median(seconds),
            "cpu_seconds": statistics.median(answer["cpu"] for answer in timed),
            "peak_rss_gb": answers[-1]["rss"] / 1e9,
            "first_loss": answers[0].get("loss"),
            "versions": answers[-1]["versions"],
        }
    trl, ours = programs["trl"], programs["kdtool"]
    return {
        "settings": {**settings, "teacher": Path(settings["teacher"]).name, "tokens_per_step": tokens},
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "load_before": load,
            "load_after": os.getloadavg(),
        },
        "programs": programs,
        "speed": ours["tokens_per_second"] / trl["tokens_per_second"],
        "speed_cpu_time": trl["cpu_seconds"] / ours["cpu_seconds"],
        "memory": ours["peak_rss_gb"] / trl["peak_rss_gb"],
    }


def _table(result: dict[str, Any]) -> str:
    lines = [
        "| program | s/step, median [min] | tokens/s | CPU s/step | peak RSS GB | first loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in result["programs"].items():
        loss = "" if of["first_loss"] is None else f"{of['first_loss']:.4f}"
        lines.append(
            f"| {name} | {of['median_seconds']:.2f} [{min(of['seconds']):.2f}] | {of['tokens_per_second']:.0f} "
            f"| {of['cpu_seconds']:.2f} | {of['peak_rss_gb']:.2f} | {loss} |"
        )
    lines.append(
        f"kdtool / TRL: {result['speed']:.2f} x tokens/s (target: at least {TARGETS['speed']}), "
        f"{result['speed_cpu_time']:.2f} x by CPU time, {result['memory']:.2f} x peak memory "
        f"(target: at most {TARGETS['memory']}); load average "
        f"{result['machine']['load_before'][0]:.1f} before, {result['machine']['load_after'][0]:.1f} after"
    )
    return "\n".join(lines)


# What both programs stand on, prepared in kdtool's environment.


def _default_teacher(work: Path) -> Path:
    from kdtool.testing import make_run
    from kdtool_teacher_smollm2 import SmolLM2

    return Path(SmolLM2(SmolLM2.Config()).locate(make_run(work, offline=True)).place)


def _dtype() -> str:
    from kdtool_transformers import compute_dtype, pick_device

    return str(compute_dtype("auto", pick_device())).removeprefix("torch.")


def _prepare(work: Path, settings: dict[str, Any]) -> None:
    """Write the student, a third of the teacher's layers, and rows of tokens."""
    import sysconfig

    from torch.nn import ModuleList
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(settings["teacher"])
    kept = list(range(0, model.config.num_hidden_layers, 3))
    model.model.layers = ModuleList(model.model.layers[index] for index in kept)
    model.config.num_hidden_layers = len(kept)
    model.float().save_pretrained(work / "student")
    tokenizer = AutoTokenizer.from_pretrained(settings["teacher"])
    tokenizer.save_pretrained(work / "student")
    rows: list[list[int]] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        ids = tokenizer(path.read_text(encoding="utf-8")[:20_000], add_special_tokens=False).input_ids
        if len(ids) >= settings["length"]:
            rows.append(ids[: settings["length"]])
    (work / "rows.json").write_text(json.dumps(rows[:64]), encoding="utf-8")


def _trl_python(environment: Path) -> str:
    """Return the interpreter of an environment with TRL; make it if it is not there."""
    python = environment / "bin" / "python"
    if not (environment / "complete").is_file():
        constraints = Path(__file__).resolve().parents[1] / "constraints.txt"
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


# The programs: each waits for a line before a step and answers with what the step took.


class Stopwatch:
    """One step's time, from the driver's word to the step's end."""

    def __init__(self, commands: IO[str]) -> None:
        self._commands = commands
        self._start = (0.0, 0.0)

    def wait(self) -> None:
        """Wait for the driver's word; leave when it has gone."""
        if not self._commands.readline():
            os._exit(0)
        self._start = (time.perf_counter(), time.process_time())

    def tell(self, versions: dict[str, str], loss: float | None) -> None:
        """Answer the driver."""
        import resource

        seconds, cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        unit = 1 if sys.platform == "darwin" else 1024
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        say({"seconds": seconds, "cpu": cpu, "rss": rss, "versions": versions, "loss": loss})


def say(answer: dict[str, Any]) -> None:
    """Send a line to the driver."""
    print(MARK + json.dumps(answer), flush=True)


def trl_program(work: Path, settings: dict[str, Any]) -> None:
    """Train with TRL's GKD trainer."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    watch = Stopwatch(sys.stdin)
    versions = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    dtype = getattr(torch, settings["dtype"])

    class Lockstep(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            say({})

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.tell(versions, losses[-1] if losses else None)

    losses: list[float] = []

    class Noting(GKDTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append(float(loss.detach()))
            return loss

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        ids = torch.tensor([example["input_ids"] for example in examples])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    tokenizer = AutoTokenizer.from_pretrained(work / "student")
    config = GKDConfig(
        output_dir=str(work / "trl"), max_steps=PHASE_STEPS, per_device_train_batch_size=settings["batch"], lmbda=0.0,
        beta=0.5, temperature=1.0, learning_rate=1e-4, max_grad_norm=1.0, bf16=dtype == torch.bfloat16,
        gradient_checkpointing=False, optim="adamw_torch_fused", weight_decay=0.01, report_to=[], save_strategy="no",
        logging_steps=1, disable_tqdm=True, max_length=settings["length"],
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    Noting(
        model=AutoModelForCausalLM.from_pretrained(work / "student", dtype=torch.float32),
        teacher_model=AutoModelForCausalLM.from_pretrained(settings["teacher"], dtype=dtype),
        args=config,
        processing_class=tokenizer,
        data_collator=collate,
        train_dataset=Dataset.from_list([{"input_ids": row} for row in json.loads((work / "rows.json").read_text())]),
        callbacks=[Lockstep()],
    ).train()


def kdtool_program(work: Path, settings: dict[str, Any]) -> None:
    """Train with kdtool's standard trainer."""
    import kdtool
    import torch
    import transformers
    from kdtool.testing import ListSource, make_run
    from kdtool_loss_divergences import JensenShannon
    from kdtool_teacher_causal_lm import CausalLM
    from kdtool_trainer_standard import StandardTrainer
    from kdtool_transformers import open_model

    watch = Stopwatch(sys.stdin)
    versions = {"kdtool": kdtool.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    teacher = CausalLM(CausalLM.Config(model=settings["teacher"], dtype=settings["dtype"]))

    class Online:
        want = kdtool.Want(kinds=frozenset({"logits"}))
        calls = 0

        def signal(self, batch: kdtool.Batch) -> kdtool.Signal:
            self.calls += 1
            if self.calls == 2:  # the first call was the start-up check's
                say({})
            if self.calls > 1:
                watch.wait()
            return teacher.kdtool_signal(batch, self.want)

    class Telling(kdtool.Tracker):
        def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
            watch.tell(versions, report.loss)

    rows = json.loads((work / "rows.json").read_text())
    labelled, document = [True] * settings["length"], [0] * settings["length"]
    source = ListSource([kdtool.Row(str(index), row, labelled, document) for index, row in enumerate(rows)])
    components: dict[str, kdtool.Component] = {
        "losses.jsd": JensenShannon(JensenShannon.Config()), "teacher": teacher, "telling": Telling(Telling.Config()),
    }  # fmt: skip
    run = make_run(work / "run", components, say=lambda text: print(text, file=sys.stderr))
    term = kdtool.Term("losses.jsd", "jsd", 1.0, teacher="teacher", needs=(frozenset({"logits"}),))
    phase = kdtool.Phase("distil", PHASE_STEPS, (term,), source, {"teacher": Online()}, work / "checkpoints")
    trainer = StandardTrainer(
        StandardTrainer.Config(
            batch=settings["batch"],
            dtype=settings["dtype"],
            learning_rate=1e-4,
            log_every=1,
            checkpoint_every=PHASE_STEPS,
        )
    )
    trainer.kdtool_train(run, phase, open_model(work / "student", dtype=torch.float32))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--program"]:
        folder = Path(sys.argv[3])
        given = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        {"trl": trl_program, "kdtool": kdtool_program}[sys.argv[2]](folder, given)
    else:
        sys.exit(main())

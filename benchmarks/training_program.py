"""A phase of kdtool's standard trainer as a program of `lockstep`: which loss it trains with is its first argument.

    python benchmarks/training_program.py {jsd,forward-kl,focal,cached,ce,states} FOLDER

`jsd`, `forward-kl` and `focal` (the loss of docs/write-a-loss.md, as somebody else would write it) ask the teacher at
every step; `cached` is forward KL on sampled tokens that are read from disk; `ce` has no teacher; `states` has no head
either: what the student's layers take alone. The folder is `prepare`'s.
"""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool._contract.signals import alternatives
from kdtool_testing import ListSource, make_run
from lockstep import Stopwatch

if TYPE_CHECKING:
    from torch import Tensor

PHASE_STEPS = 1000
"""Steps of a phase; the trainer compiles losses in long phases."""
ROWS = 64


class FocalKL(kdtool.TokenLoss):
    """Forward KL that looks at tokens on which the teacher is unsure."""

    needs = "logits"
    divergence = True

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the values, [C]."""
        assert isinstance(chunk.teacher, kdtool.DenseTokens)
        teacher = chunk.teacher.logits.float().log_softmax(-1)
        student = chunk.student_logits.float().log_softmax(-1)
        divergence = (teacher.exp() * (teacher - student)).sum(-1)
        return (1 - teacher.amax(-1).exp()) ** 2 * divergence


class States(kdtool.SequenceLoss):
    """The size of the student's final states: neither logits nor a teacher."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return the values, [N]."""
        return kdtool.PerToken(view.student.last.float().square().mean(-1))


class Teller(kdtool.Tracker):
    """Tells the driver of each step."""

    watch: Stopwatch

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        """Tell, and wait for the next turn."""
        self.watch.lap(report.loss)


class Source:
    """Signals from a function."""

    def __init__(self, want: kdtool.SignalRequest, signal: Callable[[kdtool.Batch], kdtool.Signal]) -> None:
        self.want, self.signal = want, signal


def prepare(work: Path, settings: dict[str, Any]) -> None:
    """Write the student (a third of the teacher's layers), rows of tokens, sampled signals of all rows, and settings."""
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
    (work / "rows.json").write_text(json.dumps(rows[:ROWS]), encoding="utf-8")
    (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    if settings.get("samples"):
        _record(work, settings)


def rows_of(work: Path) -> ListSource:
    """Return the rows: one document each, every token but the first labelled."""
    rows = json.loads((work / "rows.json").read_text(encoding="utf-8"))
    length = len(rows[0])
    return ListSource([kdtool.Row(str(i), row, [True] * length, [0] * length) for i, row in enumerate(rows)])


def default_teacher(work: Path) -> Path:
    """Return the folder in which the plugin `smollm2` keeps its model."""
    from kdtool_teacher_smollm2 import SmolLM2

    return Path(SmolLM2(SmolLM2.Config()).locate(make_run(work, offline=True)).place)


def default_dtype() -> str:
    """Return the precision that kdtool computes in here."""
    from kdtool_torch import compute_dtype, pick_device

    return str(compute_dtype("auto", pick_device())).removeprefix("torch.")


def _teacher(settings: dict[str, Any]) -> Any:
    from kdtool_teacher_causal_lm import CausalLM

    return CausalLM(CausalLM.Config(model=settings["teacher"], dtype=settings["dtype"]))


def _record(work: Path, settings: dict[str, Any]) -> None:
    from kdtool_torch.caches import Sampled

    teacher, cache = _teacher(settings), Sampled(Sampled.Config(samples=settings["samples"], batch=settings["batch"]))
    run = make_run(work / "recording", {"teacher": teacher})
    want = cache.records(kdtool.SignalRequest(frozenset({"sampled"})), frozenset({"logits"}))
    shutil.rmtree(work / "signals", ignore_errors=True)
    (work / "signals").mkdir()
    asked = Source(want, lambda batch: teacher.kdtool_signal(batch, want))
    cache.kdtool_record(run, rows_of(work), asked, work / "signals")
    teacher.kdtool_close()


def main(name: str, work: Path) -> None:
    """Train until the driver has gone."""
    import torch
    import transformers
    from kdtool_torch.trainer import OnPolicy, StandardTrainer
    from kdtool_transformers import open_model

    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    loss, source = _loss_and_source(name, work, settings)
    teller = Teller(Teller.Config())
    run = make_run(
        work / name, {f"losses.{name}": loss, "teller": teller}, say=lambda text: print(text, file=sys.stderr)
    )
    asked = "teacher" if source else None
    term = kdtool.LossTerm(
        f"losses.{name}", name, 1.0, teacher=asked, needs=alternatives(loss.needs), divergence=loss.divergence
    )
    signals: dict[str, Any] = {"teacher": source} if source else {}
    phase = kdtool.Phase("distil", PHASE_STEPS, (term,), rows_of(work), signals, work / name / "checkpoints")
    trainer = StandardTrainer(
        StandardTrainer.Config(
            batch=settings["batch"],
            dtype=settings["dtype"],
            learning_rate=1e-4,
            log_every=1,
            checkpoint_every=PHASE_STEPS,
            on_policy=OnPolicy.model_validate(settings["on_policy"]) if "on_policy" in settings else None,
        )
    )
    versions = {"kdtool": kdtool.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    teller.watch = Stopwatch(versions)
    trainer.kdtool_train(run, phase, open_model(work / "student", dtype=torch.float32))


def _loss_and_source(name: str, work: Path, settings: dict[str, Any]) -> tuple[kdtool.Loss, Source | None]:
    from kdtool_loss_ce import CrossEntropy
    from kdtool_loss_divergences import ForwardKL, JensenShannon
    from kdtool_torch.caches import Sampled

    if name in ("ce", "states"):
        return CrossEntropy(CrossEntropy.Config()) if name == "ce" else States(States.Config()), None
    if name == "cached":
        cache, wanted = (
            Sampled(Sampled.Config(samples=settings["samples"])),
            kdtool.SignalRequest(frozenset({"sampled"})),
        )
        return ForwardKL(ForwardKL.Config()), Source(
            wanted, lambda batch: cache.kdtool_recall(batch, wanted, work / "signals")
        )
    teacher, want = _teacher(settings), kdtool.SignalRequest(frozenset({"logits"}))
    losses = {
        "jsd": JensenShannon(JensenShannon.Config()),
        "forward-kl": ForwardKL(ForwardKL.Config()),
        "focal": FocalKL(FocalKL.Config()),
    }
    return losses[name], Source(want, lambda batch: teacher.kdtool_signal(batch, want))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

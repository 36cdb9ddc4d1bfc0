"""Measure what the plugin contract costs in a training step: at most 1 % is allowed.

    python benchmarks/contract_overhead.py [--steps 7] [--threads 1] [--json FILE]

The student has the quickstart's shape (10 layers of 576, 49,152 tokens; random weights, since time does not depend on them),
a step has 4 rows of 512 tokens, losses are half forward KL and half cross-entropy on stored teacher states. Two figures:

1. *In turn*: steps through the contract (module, bound hooks, chunks, schedules, reports to a tracker) and steps of a loop
   with the same products and formulas written into it, one each in turn. Resolved to a few percent on a busy machine.
2. *By itself*: the same machinery with the same number of calls, on rows of a few numbers instead of 49,152, minus the
   inlined loop on the same rows: what the contract adds, as a share of a real step. The verdict is about this one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import kdtool
import torch
from kdtool_loss_ce import CrossEntropy, cross_entropy
from kdtool_loss_divergences import ForwardKL, forward_kl
from kdtool_testing import ByteTokenizer, ListSource, make_run
from kdtool_torch import collate, pick_device
from kdtool_torch.inputs import MicroBatch
from kdtool_torch.machine import chosen_dtype, chunk_sizes, tuned_malloc
from kdtool_torch.objective import Objective, Sizes
from kdtool_torch.terms import bind_terms
from kdtool_transformers import TransformersModel
from torch import Tensor

ALLOWED = 0.01
ROWS, LENGTH = 4, 512


@dataclass(frozen=True)
class Shape:
    """A student: the real one, or one whose arithmetic takes no time."""

    vocabulary: int
    width: int
    layers: int


REAL, NOTHING = Shape(49152, 576, 10), Shape(8, 8, 0)


def main() -> int:
    """Measure, print, and return 1 if the contract costs more than is allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each kind, after one to warm up")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; 1 is steadier on a busy machine")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    with tempfile.TemporaryDirectory() as folder, tuned_malloc():
        real = _in_turn(*_programs(REAL, Path(folder)), arguments.steps)
        bare = _in_turn(*_programs(NOTHING, Path(folder)), 50)
    added = bare["contract"]["best"] - bare["inlined"]["best"]
    share = added / real["contract"]["best"]
    result = {
        "real": real,
        "bare": bare,
        "ratio_in_turn": real["contract"]["median"] / real["inlined"]["median"],
        "ratio_in_turn_cpu": real["contract"]["median_cpu"] / real["inlined"]["median_cpu"],
        "added_milliseconds": 1000 * added,
        "share_of_step": share,
        "load": load,
    }
    print(
        f"step: {real['contract']['median']:.3f} s through the contract, {real['inlined']['median']:.3f} s inlined (ratio "
        f"{result['ratio_in_turn']:.3f}, by CPU time {result['ratio_in_turn_cpu']:.3f})\n"
        f"the contract by itself: {result['added_milliseconds']:.2f} ms a step, {share:.2%} of it "
        f"(allowed: {ALLOWED:.0%}); load average {load[0] if load else '?'}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if share <= ALLOWED else 1


def _in_turn(contract: Callable[[], None], inlined: Callable[[], None], steps: int) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[tuple[float, float]]] = {"contract": [], "inlined": []}
    for _ in range(steps + 1):
        for name, step in (("contract", contract), ("inlined", inlined)):
            start, cpu = perf_counter(), process_time()
            step()
            seconds[name].append((perf_counter() - start, process_time() - cpu))
    return {
        name: {
            "median": statistics.median(wall for wall, _ in taken[1:]),
            "best": min(wall for wall, _ in taken[1:]),
            "median_cpu": statistics.median(cpu for _, cpu in taken[1:]),
        }
        for name, taken in seconds.items()
    }


def _programs(shape: Shape, folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a step through the contract and an inlined step, on one student each."""
    rows = [[(7 * row + i) % min(shape.vocabulary, 256) for i in range(LENGTH)] for row in range(ROWS)]
    source = ListSource([kdtool.Row(str(i), row, [True] * LENGTH, [0] * LENGTH) for i, row in enumerate(rows)])
    batch = collate([source[index] for index in range(ROWS)])
    count = int((batch.labels != -100).sum())
    dtype = chosen_dtype("auto", pick_device())
    hidden = torch.randn(count, shape.width, dtype=dtype)
    head = kdtool.Head(torch.randn(shape.vocabulary, shape.width, dtype=dtype) / shape.width**0.5, shape.vocabulary)
    lazy = kdtool.LazyLogits(hidden, head)
    return _contract(shape, folder, source, lazy, dtype), _inlined(shape, batch, lazy, dtype)


def _student(shape: Shape) -> kdtool.LanguageModel:
    torch.manual_seed(0)
    if not shape.layers:
        return Nothing(shape)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=1536, num_hidden_layers=shape.layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    tokenizer: Any = ByteTokenizer()
    tokenizer.vocabulary = shape.vocabulary
    return TransformersModel(LlamaForCausalLM(config), tokenizer)


class Nothing(kdtool.LanguageModel):
    """An embedding that is its own head: a model that takes no time."""

    def __init__(self, shape: Shape) -> None:
        self.model = torch.nn.Embedding(shape.vocabulary, shape.width)
        self.tokenizer = ByteTokenizer()

    @property
    def facts(self) -> kdtool.ModelFacts:
        raise NotImplementedError

    @property
    def head(self) -> kdtool.Head:
        return kdtool.Head(self.model.weight, self.model.weight.shape[0])

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        return kdtool.ModelOutputs(last=self.model(batch.input_ids)[batch.labels != -100])

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class Counting(kdtool.Tracker):
    """A tracker that does next to nothing with what it hears."""

    heard = 0

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self.heard += 1


class Stored(kdtool.Teacher):
    """A teacher whose states are there already."""

    lazy: kdtool.LazyLogits

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        return kdtool.Signal("stored", lazy=self.lazy)


def _contract(
    shape: Shape, folder: Path, source: ListSource, lazy: kdtool.LazyLogits, dtype: torch.dtype
) -> Callable[[], None]:
    student, batch = _student(shape), collate(source.rows)
    teacher = Stored(Stored.Config())
    teacher.lazy = lazy
    components: dict[str, kdtool.Component] = {
        "losses.kl": ForwardKL(ForwardKL.Config()), "losses.ce": CrossEntropy(CrossEntropy.Config()), "teacher": teacher,
        "counting": Counting(Counting.Config()),
    }  # fmt: skip
    run = make_run(folder, components)
    terms = (
        kdtool.LossTerm(
            "losses.kl", "kl", kdtool.Schedule(0.4, 0.6), teacher="teacher", needs=(frozenset({"logits"}),)
        ),
        kdtool.LossTerm("losses.ce", "ce", kdtool.Schedule(0.6, 0.4)),
    )
    want = kdtool.SignalRequest(kinds=frozenset({"logits"}))
    signal = run.component("teacher", kdtool.Teacher).kdtool_signal
    phase = kdtool.Phase("p", 1000, terms, source, {}, folder)
    sizes = Sizes(dtype, *chunk_sizes(REAL.vocabulary, torch.device("cpu")), rows_per_step=ROWS)
    module = Objective(run, phase, student, sizes).bind(bind_terms(run, phase, {"teacher": signal(batch, want)}))
    finish = _optimiser(student)
    count = (batch.labels != -100).sum()
    step = 0

    def one() -> None:
        nonlocal step
        step += 1
        weights = [term.weight_at(step / 1000) for term in terms]
        module.set_step(step, step / 1000, weights)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = module(MicroBatch(batch, {"teacher": signal(batch, want)}), count)
        loss.backward()
        norm = finish()
        values = module.stats.values.tolist()
        reports = {term.label: kdtool.TermReport(v, w) for term, v, w in zip(terms, values, weights, strict=True)}
        total = sum(report.value * report.weight for report in reports.values())
        run.hook.kdtool_step_end(run, kdtool.StepReport(step, 1000, 0, 0.0, total, 1e-4, norm, reports))
        run.hook.kdtool_progress(run, step, None)

    return one


def _inlined(shape: Shape, batch: kdtool.Batch, lazy: kdtool.LazyLogits, dtype: torch.dtype) -> Callable[[], None]:
    student = _student(shape)
    finish = _optimiser(student)
    labels = batch.labels[batch.labels != -100]
    head_chunk_size, loss_chunk_size = chunk_sizes(REAL.vocabulary, torch.device("cpu"))
    buffers = [torch.empty(head_chunk_size, shape.vocabulary, dtype=dtype) for _ in range(2)]

    class Head(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
            h, w, total = hidden.to(dtype), weight.to(dtype), torch.zeros(())
            dh, dw = torch.zeros_like(hidden, dtype=torch.float32), torch.zeros_like(weight)
            with torch.autocast("cpu", enabled=False):
                for start in range(0, len(h), head_chunk_size):
                    stop = min(start + head_chunk_size, len(h))
                    z = torch.mm(h[start:stop], w.t(), out=buffers[0][: stop - start])
                    t = torch.mm(lazy.hidden[start:stop], lazy.head.weight.t(), out=buffers[1][: stop - start])
                    for first in range(0, stop - start, loss_chunk_size):
                        part = slice(first, min(first + loss_chunk_size, stop - start))
                        with torch.enable_grad():
                            leaf = z[part].detach().requires_grad_()
                            kl = forward_kl(leaf, t[part]).sum()
                            ce = cross_entropy(leaf, labels[start:stop][part]).sum()
                            loss = 0.5 * kl + 0.5 * ce
                            (gradient,) = torch.autograd.grad(loss, leaf)
                        z[part] = gradient
                        total += loss.detach()
                    dh[start:stop] = z @ w
                    dw += z.t() @ h[start:stop]
            ctx.gradients = dh, dw
            return total / len(h)

        @staticmethod
        def backward(ctx: Any, from_above: Tensor) -> tuple[Tensor, Tensor]:
            dh, dw = ctx.gradients
            scale = from_above / len(dh)
            return dh.mul_(scale), dw.mul_(scale)

    def one() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            last = student.backbone(batch, kdtool.SignalRequest()).last
            loss: Tensor = Head.apply(last, student.head.weight)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
        finish()

    return one


def _optimiser(student: kdtool.LanguageModel) -> Callable[[], float]:
    parameters = list(student.model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def finish() -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        optimiser.step()
        optimiser.zero_grad()
        return norm

    return finish


if __name__ == "__main__":
    sys.exit(main())

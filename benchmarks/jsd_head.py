"""JSD from hidden states, forward and backward, student and teacher head included: kdtool beside Liger's and plain PyTorch.

    python benchmarks/jsd_head.py [--tokens 8192,1024] [--rounds 20] [--json FILE]

Sizes are those of a 1B student (H 2048) and an 8B teacher (H 4096) with Llama 3's vocabulary of 128,256 in bfloat16; on a
CPU give smaller ones. `kdtool` is the standard trainer's chunked head with the plugin `jsd`, eager and compiled; `liger`
is `LigerFusedLinearJSD` (pip install liger-kernel; a GPU); `plain` multiplies all logits out. All compute the gradients
of the student's states and head, take one round each in turn, and their losses are compared first. Time is the median of
the rounds; memory is what was allocated at the peak above weights and states, on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool_loss_divergences import JensenShannon, jensen_shannon
from kdtool_torch import pick_device
from kdtool_torch.head import HeadWork, head_loss
from kdtool_torch.machine import chunk_sizes
from kdtool_torch.terms import BoundTerm, Chunk, ChunkLoss
from torch import Tensor


class HeadSizes(NamedTuple):
    """Widths of the student's and the teacher's states, and tokens of the vocabulary."""

    student: int
    teacher: int
    vocabulary: int


class Inputs(NamedTuple):
    """Final states [N, H] and heads [V, H] of both, and labels; the student's learn."""

    states: Tensor
    head: Tensor
    teacher_states: Tensor
    teacher_head: Tensor
    labels: Tensor


def main() -> int:
    """Print a table for each number of tokens; 1 where losses differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", default="8192,1024")
    parser.add_argument("--student", type=int, default=2048, help="width of the student's states")
    parser.add_argument("--teacher", type=int, default=4096, help="width of the teacher's states")
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device, found, agree = pick_device(), {}, True
    sizes, dtype = HeadSizes(options.student, options.teacher, options.vocabulary), getattr(torch, options.dtype)
    for tokens in map(int, options.tokens.split(",")):
        found[tokens] = measured(sizes, tokens, dtype, options.rounds)
        agree = agree and losses_agree(found[tokens])
        print(f"{tokens} tokens on {_name(device)}, {options.dtype}")
        for name, of in found[tokens].items():
            if "failed" in of:
                print(f"  {name:16} {of['failed']}")
                continue
            memory = "" if of["peak GB"] is None else f"{of['peak GB']:8.2f} GB"
            print(f"  {name:16} {of['milliseconds']:9.1f} ms [{of['least']:.1f}] {memory}  loss {of['loss']:.5f}")
    if options.json:
        options.json.write_text(
            json.dumps({"device": _name(device), "found": found}, indent=1) + "\n", encoding="utf-8"
        )
    return 0 if agree else 1


def measured(sizes: HeadSizes, tokens: int, dtype: torch.dtype, rounds: int) -> dict[str, dict[str, Any]]:
    """Return each program's median and least milliseconds, peak memory (None on a CPU) and loss, or why it failed."""
    inputs = _inputs(sizes, tokens, dtype)
    programs: dict[str, Callable[[], Tensor]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, make in _programs(pick_device()).items():
        try:
            program = make(inputs)
            for _ in range(2):
                loss = _round(program, inputs)[0]
        except Exception as error:  # the other programs are measured whatever one raises
            found[name] = {"failed": reason(error)}
        else:
            programs[name], found[name] = program, {"loss": loss}
    taken = [{name: _round(program, inputs) for name, program in programs.items()} for _ in range(rounds)]
    for name in programs:
        seconds = [one[name][1] for one in taken]
        found[name] |= {"milliseconds": statistics.median(seconds) * 1000, "least": min(seconds) * 1000}
        found[name]["peak GB"] = taken[-1][name][2]
    return found


def losses_agree(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the losses of all programs that ran are within 2 %."""
    losses = [of["loss"] for of in found.values() if "loss" in of]
    return not losses or bool(max(losses) - min(losses) <= 0.02 * max(losses))


def reason(error: Exception) -> str:
    """Print the error as Python does and return it on one line."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _inputs(sizes: HeadSizes, tokens: int, dtype: torch.dtype) -> Inputs:
    device = pick_device()
    generator = torch.Generator(device).manual_seed(0)

    def normal(rows: int, width: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(rows, width, generator=generator, device=device) * scale).to(dtype)

    return Inputs(
        normal(tokens, sizes.student).requires_grad_(),
        normal(sizes.vocabulary, sizes.student, sizes.student**-0.5).requires_grad_(),
        normal(tokens, sizes.teacher),
        normal(sizes.vocabulary, sizes.teacher, sizes.teacher**-0.5),
        torch.randint(sizes.vocabulary, (tokens,), generator=generator, device=device),
    )


def _programs(device: torch.device) -> dict[str, Callable[[Inputs], Callable[[], Tensor]]]:
    programs = {
        "plain": _plain,
        "kdtool": lambda inputs: _kdtool(inputs, compiled=False),
        "kdtool compiled": lambda inputs: _kdtool(inputs, compiled=True),
    }
    return {**programs, "liger": _liger} if device.type == "cuda" else programs


def _plain(inputs: Inputs) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        logits, teacher = inputs.states @ inputs.head.T, inputs.teacher_states @ inputs.teacher_head.T
        return jensen_shannon(logits, teacher).mean()

    return loss


def _kdtool(inputs: Inputs, *, compiled: bool) -> Callable[[], Tensor]:
    term = kdtool.LossTerm("losses.jsd", "jsd", 1.0, teacher="teacher", needs=(frozenset({"logits"}),))
    call = JensenShannon(JensenShannon.Config()).kdtool_token_loss
    loss = ChunkLoss([BoundTerm(term, call, per_token=True, form="dense", shares=(1.0,))], [])
    if compiled:
        loss.compile()
    device, tokens, vocabulary = inputs.labels.device, len(inputs.labels), len(inputs.head)
    head_chunk_size, loss_chunk_size = chunk_sizes(vocabulary, device)
    lazy = kdtool.LazyLogits(inputs.teacher_states, kdtool.Head(inputs.teacher_head, vocabulary))
    number = torch.zeros((), device=device)
    rows = Chunk(inputs.labels, torch.arange(tokens, device=device), {}, torch.ones(1, device=device), number, number)

    def value() -> Tensor:
        signals = {"teacher": kdtool.Signal("teacher", lazy=lazy)}
        head, sizes = kdtool.Head(inputs.head, vocabulary), (head_chunk_size, loss_chunk_size)
        work = HeadWork(loss, rows, signals, [inputs.states], head, inputs.head.dtype, *sizes, {})
        return head_loss(work, torch.tensor(float(tokens), device=device))

    return value


def _liger(inputs: Inputs) -> Callable[[], Tensor]:
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=0.5)

    def value() -> Tensor:
        result: Tensor = loss(inputs.states, inputs.head, inputs.teacher_states, inputs.teacher_head, inputs.labels)
        return result

    return value


def _round(program: Callable[[], Tensor], inputs: Inputs) -> tuple[float, float, float | None]:
    """Return the loss, the seconds of forward and backward, and what was allocated at the peak, in GB."""
    inputs.states.grad = inputs.head.grad = None
    on_gpu = inputs.states.is_cuda
    before = 0
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = perf_counter()
    loss = program()
    loss.backward()  # type: ignore[no-untyped-call]
    if on_gpu:
        torch.cuda.synchronize()
    seconds = perf_counter() - start
    return float(loss.detach()), seconds, (torch.cuda.max_memory_allocated() - before) / 1e9 if on_gpu else None


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    sys.exit(main())

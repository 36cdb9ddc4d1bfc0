"""Time the losses of a chunk by autograd, by hand and compiled, in turn, beside the matrix products.

    OMP_NUM_THREADS=1 python benchmarks/chunk_gradient.py [--losses ce,jsd] [--rows 64] [--positions 1024] [--times 5]

The trainer's own chunked head: 1,024 positions of width 576 on 49,152 tokens in bfloat16, its losses called with some rows
at a time. Milliseconds of processor time, medians; a loss's share is its part of losses and products together.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import kdtool
import torch
from kdtool_loss_ce import CrossEntropy
from kdtool_loss_divergences import ForwardKL, JensenShannon, ReverseKL, SkewKL, SkewReverseKL, TotalVariation
from kdtool_testing import ListSource, make_run
from kdtool_torch.head import HeadWork, Projection, product
from kdtool_torch.machine import tuned_malloc
from kdtool_torch.terms import Chunk, ChunkLoss, bind_terms

VOCABULARY, WIDTH, DTYPE, KEPT = 49152, 576, torch.bfloat16, 14
LOSSES: dict[str, tuple[type[kdtool.Loss], kdtool.SignalKind | None]] = {
    "ce": (CrossEntropy, None),
    "forward-kl": (ForwardKL, "logits"),
    "forward-kl sampled": (ForwardKL, "sampled"),
    "forward-kl top-k": (ForwardKL, "top-k"),
    "reverse-kl": (ReverseKL, "logits"),
    "jsd": (JensenShannon, "logits"),
    "skew-kl": (SkewKL, "logits"),
    "skew-reverse-kl": (SkewReverseKL, "logits"),
    "tvd": (TotalVariation, "logits"),
}

_ROW = kdtool.Row("row", [0], [True], [0])


@dataclass(frozen=True)
class Data:
    """Random states, heads and what a teacher told, so large that student and teacher are unsure but not of everything."""

    hidden: torch.Tensor
    head: kdtool.Head
    labels: torch.Tensor
    lazy: kdtool.LazyLogits
    ids: torch.Tensor
    weights: torch.Tensor


def main() -> None:
    """Print a line for each loss."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--losses", default=",".join(LOSSES))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    data = _data(options.positions)
    with tempfile.TemporaryDirectory() as folder, tuned_malloc(), torch.no_grad():
        products = _in_turn({"products": _products(data)}, options.times)["products"]
        print(f"{options.positions} positions, {options.rows} rows a call; products alone: {products:.0f} ms")
        print(
            f"{'loss':20}{'autograd':>10}{'by hand':>10}{'compiled':>10}{'hand/auto':>11}{'share, auto':>13}{'hand':>7}"
        )
        for name in options.losses.split(","):
            found = _in_turn(_programs(name, data, options.rows, Path(folder)), options.times)
            plain, hand, compiled = found["autograd"], found["by hand"], found["compiled"]
            shares = f"{plain / (plain + products):13.0%}{hand / (hand + products):7.0%}"
            print(f"{name:20}{plain:10.0f}{hand:10.0f}{compiled:10.0f}{hand / plain:11.2f}{shares}", flush=True)


def _data(positions: int) -> Data:
    generator = torch.Generator().manual_seed(0)

    def states() -> torch.Tensor:
        return torch.randn(positions, WIDTH, generator=generator, dtype=DTYPE)

    def head() -> kdtool.Head:
        weight = 3 * torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=DTYPE) / WIDTH**0.5
        return kdtool.Head(weight, VOCABULARY)

    ids = torch.randint(VOCABULARY, (positions, KEPT), generator=generator)
    weights = torch.full((positions, KEPT), 1 / (KEPT + 1))
    return Data(states(), head(), ids[:, 0].clone(), kdtool.LazyLogits(states(), head()), ids.int(), weights)


def _programs(name: str, data: Data, rows: int, folder: Path) -> dict[str, Callable[[], None]]:
    """Return the losses of all positions in three ways; logits are projected before."""
    cls, offer = LOSSES[name]
    component = cls(cls.Config())
    need: Any = (frozenset({offer}),) if offer else ()
    term = kdtool.LossTerm("losses.it", name, 1.0, teacher="teacher" if offer else None, needs=need)
    sparse = kdtool.SparseTokens(data.ids, data.weights, "top-k" if offer == "top-k" else "sampled", 1.0)
    if offer == "sampled":
        sparse = replace(sparse, weights=data.weights / data.weights.sum(-1, keepdim=True))
    dense = offer == "logits"
    signals = {"teacher": kdtool.Signal("t", data.lazy if dense else None, None if dense or not offer else sparse)}
    run = make_run(folder, {"losses.it": component})
    bound = bind_terms(run, kdtool.Phase("p", 1, (term,), ListSource([_ROW]), {}, folder), signals)
    return {
        "autograd": _losses(ChunkLoss([replace(own, gradient=None) for own in bound], []), data, signals, rows),
        "by hand": _losses(ChunkLoss(bound, []), data, signals, rows),
        "compiled": _losses(_compiled(ChunkLoss(bound, [])), data, signals, rows),
    }


def _compiled(loss: ChunkLoss) -> ChunkLoss:
    loss.compile()
    return loss


def _losses(loss: ChunkLoss, data: Data, signals: dict[str, kdtool.Signal], size: int) -> Callable[[], None]:
    """Return what the chunked head does between its products."""
    one, labels = torch.ones(()), data.labels
    token_rows = Chunk(labels, labels, {}, torch.ones(1), one, one)
    work = HeadWork(loss, token_rows, signals, [data.hidden], data.head, DTYPE, len(labels), size)
    z, told = Projection(data.head).logits(data.hidden), work.project_teachers(slice(0, len(labels)))
    out = torch.empty_like(z)

    def run() -> None:
        for start in range(0, len(labels), size):
            part = slice(start, min(start + size, len(labels)))
            (gradient,), _ = loss(work.rows.select(part, work.teacher_rows(told, part, part), (z[part],)))
            out[part].copy_(gradient)

    return run


def _products(data: Data) -> Callable[[], None]:
    """Return the student's three products of the chunked head, with their sums in float32."""
    projection, out = Projection(data.head), torch.empty(len(data.hidden), VOCABULARY, dtype=DTYPE)
    by_weight, by_states = torch.zeros(VOCABULARY, WIDTH), torch.zeros(len(data.hidden), WIDTH)

    def run() -> None:
        z = projection.logits(data.hidden, out)
        by_states.copy_(product(z, projection.weight))
        by_weight.add_(product(z.t(), data.hidden))

    return run


def _in_turn(programs: dict[str, Callable[[], None]], times: int) -> dict[str, float]:
    """Return the median milliseconds of each, after one call to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(times + 1):
        for name, program in programs.items():
            start = process_time()
            program()
            taken[name].append(1000 * (process_time() - start))
    return {name: median(found[1:]) for name, found in taken.items()}


if __name__ == "__main__":
    main()

"""Time to choose the next tokens of a batch with `top_p`, against transformers' `TopPLogitsWarper` and `torch.multinomial`.

    python benchmarks/nucleus_sampling.py [--texts 32] [--vocabulary 49152] [--turns 20]

Both choose from the same logits on the CPU, in turn. kdtool draws with the generator of each text, transformers with one for
the batch. It prints milliseconds per call, and the ratios of the turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from kdtool_torch import Sampler, choose
from torch import Tensor
from transformers import TopPLogitsWarper

TOP_P = 0.95


def main() -> None:
    """Time both in turn, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=32, help="rows of the batch")
    parser.add_argument("--vocabulary", type=int, default=49_152, help="tokens to choose from")
    parser.add_argument("--turns", type=int, default=20, help="measured calls of each")
    options = parser.parse_args()
    samplers = [Sampler(1.0, seed, torch.device("cpu"), top_p=TOP_P) for seed in range(options.texts)]
    warper = TopPLogitsWarper(TOP_P)
    for spread in (1.0, 3.0):
        logits = torch.randn(options.texts, options.vocabulary, generator=torch.Generator().manual_seed(0)) * spread

        def ours(logits: Tensor = logits) -> Tensor:
            return choose(logits.clone(), samplers, options.vocabulary).argmax(-1)

        def theirs(logits: Tensor = logits) -> Tensor:
            return torch.multinomial(warper(None, logits).softmax(-1), 1)

        turns = [(seconds(ours), seconds(theirs)) for _ in range(options.turns + 1)][1:]
        report(spread, turns)


def seconds(choice: Callable[[], Tensor]) -> float:
    """Return the time of one call."""
    begun = perf_counter()
    choice()
    return perf_counter() - begun


def report(spread: float, turns: list[tuple[float, float]]) -> None:
    """Print medians and ratios."""
    ratios = [theirs / ours for ours, theirs in turns]
    ours, theirs = (1000 * median(each) for each in zip(*turns, strict=True))
    print(
        f"logits with standard deviation {spread:g}: {ours:.0f} ms, transformers {theirs:.0f} ms: "
        f"{median(ratios):.2f} times as fast, {min(ratios):.2f} to {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()

"""Time completions of code with and without prompt lookup, as `kdtool serve` streams them.

    python benchmarks/prompt_lookup.py MODEL [--prompts 40] [--tokens 16] [--temperature 0] [--proposed 0 2 4 8]

MODEL is a folder or a run, as for `kdtool generate`. Prompts are the 1,500 characters before a cursor in files of Python's
standard library. Each is read once before it is timed, so that its keys and values are kept, as those of an editor are.
Prints for each number of proposed tokens the milliseconds per answer (median, and the time within which 95 % came), their
ratio to the first number of the same prompt (median and quartiles), and the forward passes per token.
"""

from __future__ import annotations

import argparse
import os
import random
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, quantiles

import kdtool
from kdtool_transformers import TransformersRuntime

CHARACTERS = 1500


def prompts(count: int) -> Iterator[str]:
    """Yield the text before random cursors."""
    draw = random.Random(0)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [text for file in files if len(text := file.read_text(encoding="utf-8", errors="ignore")) > 2 * CHARACTERS]
    for _ in range(count):
        text = draw.choice(texts)
        at = draw.randrange(CHARACTERS, len(text))
        yield text[at - CHARACTERS : at]


class Timed:
    """A runtime that proposes `proposed` tokens, and what its answers took: milliseconds, and passes per token."""

    def __init__(self, opened: TransformersRuntime, proposed: int) -> None:
        with opened.passes() as model:
            self._runtime = TransformersRuntime(model, opened.compute)
        self._runtime.proposed = proposed
        self._passes = 0
        self.milliseconds: list[float] = []
        self.passes: list[float] = []
        with opened.passes() as model:
            model.model.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self._passes += 1

    def close(self) -> None:
        """End the runtime's thread."""
        self._runtime.close()

    def answer(self, request: kdtool.Request) -> None:
        """Read a prompt, then time its answer."""
        list(self._runtime.stream(replace(request, max_tokens=1)))
        before, start = self._passes, time.perf_counter()
        last = list(self._runtime.stream(request))[-1]
        self.milliseconds.append(1000 * (time.perf_counter() - start))
        self.passes.append((self._passes - before) / max(1, last.tokens_out))


def main() -> None:
    """Answer each prompt with each number of proposed tokens, in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--proposed", type=int, nargs="+", default=[0, 2, 4, 8])
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)
    with kdtool.open_models(options.model) as models, models.open(next(iter(models.subjects))) as opened:
        if not isinstance(opened, TransformersRuntime):
            raise SystemExit("prompt lookup needs a model of transformers")
        timed = {proposed: Timed(opened, proposed) for proposed in options.proposed}
        for number, prompt in enumerate(prompts(options.prompts)):
            request = kdtool.Request(str(number), prompt, options.tokens, temperature=options.temperature, seed=number)
            for each in timed.values():
                each.answer(request)
        for each in timed.values():
            each.close()
    first = timed[options.proposed[0]]
    for proposed, each in timed.items():
        ratios = [own / other for own, other in zip(each.milliseconds, first.milliseconds, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        print(
            f"{proposed} proposed: {median(each.milliseconds):.0f} ms, 95 % within "
            f"{quantiles(each.milliseconds, n=20)[-1]:.0f} ms, ratio {median(ratios):.2f} ({low:.2f} to {high:.2f}), "
            f"{fmean(each.passes):.2f} passes per token"
        )


if __name__ == "__main__":
    main()

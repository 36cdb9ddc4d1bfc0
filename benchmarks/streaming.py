"""Measure the tokens per second of several streamed answers of SmolLM2-135M together, against one alone, on the processor.

    python benchmarks/streaming.py [--requests 8] [--tokens 64] [--repeats 2]

Prompts are pieces of 200 characters of Python's standard library. Prints both rates of each repeat, their ratio, the time to
the first token, and the system's load before, which the rates suffer from.
"""

from __future__ import annotations

import argparse
import os
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import kdtool
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_testing import make_run


def main() -> None:
    """Stream one answer, then all of them, and print a line for each repeat."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda file: file.stat().st_size)
    texts = [file.read_text(encoding="utf-8", errors="ignore") for file in files[-options.requests :]]
    with TemporaryDirectory() as scratch:
        teacher = SmolLM2(SmolLM2.Config(dtype="float32"))
        opened = teacher.kdtool_open(make_run(Path(scratch)), kdtool.Subject("teacher", "teacher"))
        if opened is None:
            raise SystemExit("the teacher smollm2 cannot be opened here")
        with opened as runtime:
            list(runtime.stream(kdtool.Request("first", "x = ", 4)))
            for repeat in range(options.repeats):
                report(runtime, texts, 400 * repeat, options.tokens)


def report(runtime: kdtool.Runtime, texts: Sequence[str], at: int, tokens: int) -> None:
    """Print both rates, with prompts from a place in the texts, so that the runtime has read none before."""
    load = os.getloadavg()[0]
    requests = [
        kdtool.Request(str(number), text[at + 200 : at + 400], tokens, temperature=1.0, seed=number)
        for number, text in enumerate(texts)
    ]
    alone, first = rate(runtime, [replace(requests[0], prompt=texts[0][at : at + 200])])
    together, _ = rate(runtime, requests)
    print(
        f"1 request: {alone:.1f} tokens/s, first token after {1000 * first:.0f} ms; {len(requests)} requests: "
        f"{together:.1f} tokens/s, {together / alone:.2f} times as many; load {load:.1f}",
        flush=True,
    )


def rate(runtime: kdtool.Runtime, requests: Sequence[kdtool.Request]) -> tuple[float, float]:
    """Return the tokens per second of requests that are streamed at once, and the shortest time to a first token."""
    started = time.monotonic()

    def stream(request: kdtool.Request) -> tuple[int, float]:
        first = 0.0
        for piece in runtime.stream(request):
            first = first or (time.monotonic() - started if piece.tokens_out else 0.0)
        return piece.tokens_out, first

    with ThreadPoolExecutor(len(requests)) as pool:
        found = list(pool.map(stream, requests))
    return sum(tokens for tokens, _ in found) / (time.monotonic() - started), min(first for _, first in found)


if __name__ == "__main__":
    main()

"""Measure answers whose rows join and leave against batches of `model.generate`, in turn, by one model on this machine.

    python benchmarks/answers.py FOLDER QUESTIONS [--count 32] [--tokens 512] [--repeats 3]

FOLDER holds a chat model; QUESTIONS is JSON Lines with a `prompt`, such as HumanEval.jsonl.gz. Each repeat answers the same
questions both ways, greedily, the other way first every second time. Prints the new tokens per second of both, their ratio,
and how many answers are equal: rounding may decide between two tokens that are almost equally likely.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kdtool
from kdtool_torch import compute_dtype
from kdtool_transformers import TransformersRuntime, answer_requests, generate, open_model
from kdtool_transformers.generation import capacity_of


def main() -> None:
    """Answer the questions both ways, and print a line for each repeat."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    opened = gzip.open if options.questions.suffix == ".gz" else open
    with opened(options.questions, "rt", encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines][: options.count]
    requests = [
        kdtool.Request(str(number), "", options.tokens, turns=(("user", f"Complete this function.\n{prompt}"),))
        for number, prompt in enumerate(prompts)
    ]
    model = open_model(str(options.folder), offline=True)
    device = model.head.weight.device
    model.model.to(compute_dtype("auto", device))
    runtime = TransformersRuntime(model)

    def in_batches() -> Iterator[kdtool.TextAnswer]:
        def of(batch: list[kdtool.Request]) -> list[kdtool.TextAnswer]:
            return generate(model.model, model.tokenizer, device, batch)

        return answer_requests(requests, model.tokenizer, runtime.context, of, capacity_of(model.model, device))

    ways: list[tuple[str, Callable[[], Iterator[kdtool.TextAnswer]]]] = [
        ("batches", in_batches),
        ("rows", lambda: runtime.answer(requests)),
    ]
    ratios = []
    for repeat in range(options.repeats):
        load, speeds, texts = os.getloadavg()[0], dict[str, float](), dict[str, dict[str, str]]()
        for name, way in ways[:: 1 if repeat % 2 else -1]:
            begun = time.perf_counter()
            answers = list(way())
            speeds[name] = sum(answer.tokens_out for answer in answers) / (time.perf_counter() - begun)
            texts[name] = {answer.id: answer.text for answer in answers}
        same = sum(text == texts["rows"][number] for number, text in texts["batches"].items())
        ratios.append(speeds["rows"] / speeds["batches"])
        print(
            f"batches {speeds['batches']:.1f} tokens/s, rows {speeds['rows']:.1f}, ratio {ratios[-1]:.2f}; "
            f"{same} of {len(requests)} answers equal; load {load:.1f}",
            flush=True,
        )
    print(f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


if __name__ == "__main__":
    main()

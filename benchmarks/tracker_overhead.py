"""Measure what the events of a training step cost the step, with trackers that are quick, slow, hang, or compute.

    python benchmarks/tracker_overhead.py [--steps 400] [--rounds 5] [--json FILE]

A step is a pause of a millisecond, in which other threads run, and then the calls of `kdtool_step_end` and
`kdtool_progress`, through hooks with the run's event log on disk, as in a run. Only the calls are timed. Trackers:

- none: the event log alone
- quick: stores the report
- slow: takes 20 ms for each step, so that its queue fills
- hangs: never returns from its first step
- raises: fails at the first step, and is disabled
- computes: Python code for 2 ms a step, which takes the interpreter from other threads
- caller: takes 20 ms for each step in the caller's thread (`synchronous`), as every tracker would without a queue
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from time import monotonic, perf_counter, sleep

import kdtool
from kdtool._contract.run_info import Owner
from kdtool._plugins import events
from kdtool._plugins.events import Events, TrackerThread
from kdtool._plugins.hooks import ComponentHooks
from kdtool._results.files import EventLog
from kdtool_testing import make_run

ALLOWED = 1000.0
"""Microseconds that a step may take longer with a tracker than without."""
TERMS = {name: kdtool.TermReport(2.5, 0.5, 0.01) for name in ("ce", "forward-kl", "hidden")}


class Quick(kdtool.Tracker):
    """Stores the report."""

    last: kdtool.StepReport | None = None

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self.last = report


class Slow(kdtool.Tracker):
    """Takes 20 ms a step."""

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        sleep(0.02)


class Hangs(kdtool.Tracker):
    """Never returns."""

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        sleep(3600)


class Raises(kdtool.Tracker):
    """Fails."""

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        raise OSError("no space")


class Computes(kdtool.Tracker):
    """Computes for 2 ms a step."""

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        end = perf_counter() + 0.002
        while perf_counter() < end:
            pass


class Caller(Slow):
    """Takes 20 ms a step in the caller's thread."""

    synchronous = True


TRACKERS: dict[str, type[kdtool.Tracker] | None] = {
    "none": None, "quick": Quick, "slow": Slow, "hangs": Hangs, "raises": Raises, "computes": Computes, "caller": Caller,
}  # fmt: skip


def main() -> int:
    """Measure, print, and return 1 if a tracker in a thread of its own costs more than is allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, in which all trackers take turns")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    events.PATIENCE = events.SHORT_PATIENCE = 0.1
    events.LONGEST = arguments.steps // 2  # a slow or hanging tracker is switched off in the round
    taken: dict[str, list[list[float]]] = {name: [] for name in TRACKERS}
    for _ in range(arguments.rounds):
        for name, cls in TRACKERS.items():
            with tempfile.TemporaryDirectory() as folder:
                taken[name].append(_steps(Path(folder), cls, arguments.steps))
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    result = {name: _figures(rounds) for name, rounds in taken.items()}
    print("| tracker | median of a step, µs [over rounds] | 99th percentile, µs | longest, µs |\n|---|---|---|---|")
    for name, found in result.items():
        low, high = found["lowest_median"], found["highest_median"]
        figures = f"{found['median']:,.0f} [{low:,.0f} to {high:,.0f}] | {found['p99']:,.0f} | {found['longest']:,.0f}"
        print(f"| {name} | {figures} |")
    print(f"load average {load[0] if load else '?'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": result, "load": load}, indent=1) + "\n", encoding="utf-8")
    added = {name: found["median"] - result["none"]["median"] for name, found in result.items() if name != "caller"}
    return int(max(added.values()) > ALLOWED)


def _steps(folder: Path, cls: type[kdtool.Tracker] | None, steps: int) -> list[float]:
    """Return the microseconds that each step's events took."""
    components = {} if cls is None else {"tracker": cls(cls.Config())}
    owner = Owner("tracker", "tracker", "tracker", "", "")
    threads = {"tracker": TrackerThread(owner, lambda _: None)} if cls and not cls.synchronous else {}
    way = Events(threads)
    hooks = ComponentHooks(components, complain=lambda _: None, events=way)
    run = make_run(folder, stage="phases", phase="train")
    way.begin(run, EventLog(folder, {}, print))
    hooks.kdtool_run_start(run, ())
    found = []
    for step in range(1, steps + 1):
        sleep(0.001)
        report = kdtool.StepReport(step, steps, 2048 * step, 0.5 * step, 2.5, 1e-3, 0.5, TERMS)
        start = perf_counter()
        hooks.kdtool_step_end(run, report)
        hooks.kdtool_progress(run, step, None)
        found.append(1e6 * (perf_counter() - start))
    hooks.kdtool_run_end(run, "done", None)
    for thread in threads.values():
        thread.finish(monotonic() + 0.1)
        thread.close(lambda: None)
    return found


def _figures(rounds: list[list[float]]) -> dict[str, float]:
    medians = [statistics.median(each) for each in rounds]
    every = sorted(value for each in rounds for value in each)
    return {
        "median": statistics.median(every),
        "lowest_median": min(medians),
        "highest_median": max(medians),
        "p99": every[int(0.99 * len(every))],
        "longest": every[-1],
    }


if __name__ == "__main__":
    sys.exit(main())

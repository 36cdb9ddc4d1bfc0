"""The teacher `claude` against its loopback server, on the real clock: requests a second, memory, use of a rate limit.

    python benchmarks/claude_server.py speed          # 8,000 requests, 1,000 under way, each journalled twice
    python benchmarks/claude_server.py rate           # 600 requests a minute permitted, 64 workers, four minutes
    python benchmarks/claude_server.py budget         # 100 runs with faults: the budget is never exceeded

Nothing outside of this machine is asked. Kills: KDTOOL_FULL_FAULTS=1 pytest teachers/claude/tests
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import kdtool
from kdtool_measuring import read_summary
from kdtool_teacher_claude import Claude
from kdtool_testing.servers.claude import ServerProcess, serve_process
from kdtool_testing.servers.claude_api import KEY, Faults
from kdtool_testing.servers.claude_replies import MODEL


def requests(number: int, first: int = 0) -> list[kdtool.Request]:
    """Return requests with different prompts."""
    return [kdtool.Request(f"r{i}", f"prompt {i}", 256) for i in range(first, first + number)]


def teacher(server: ServerProcess, folder: Path, concurrency: int, budget: str = "1000") -> Claude:
    """Return a teacher that asks the server."""
    file = folder / "ledger.sqlite"
    return Claude(
        Claude.Config(model=MODEL, budget_usd=Decimal(budget), url=server.url, ledger=file, concurrency=concurrency)
    )


def measure_speed(folder: Path, number: int = 8000) -> None:
    """Print requests a second after a warm-up, processor time of each, and the peak of memory."""
    with serve_process() as server:
        asking = teacher(server, folder, 1000)
        list(asking.kdtool_answer(requests(1000)))
        began, used = time.monotonic(), time.process_time()
        count = sum(1 for _ in asking.kdtool_answer(requests(number, 1000)))
        seconds, used = time.monotonic() - began, time.process_time() - used
        asking.kdtool_close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count / seconds:.0f} requests/s, {1000 * used / count:.2f} ms of CPU each, {memory:.0f} MB at the peak")


def measure_rate(folder: Path, minutes: int = 4) -> None:
    """Print what is used of a limit, and refused, after the first minute."""
    with serve_process(Faults(requests_per_minute=600, burst=10, delay=0.3)) as server:
        asking = teacher(server, folder, 64)
        answers = asking.kdtool_answer(requests(100_000))
        began = time.monotonic()
        marks: list[tuple[int, int]] = []
        for limit in (60, 60 * minutes):
            while time.monotonic() - began < limit:
                next(answers)
            found = server.bill().statuses
            marks.append((found.get("200", 0), found.get("429", 0)))
        answers.close()  # type: ignore[attr-defined]
        asking.kdtool_close()
    good, refused = (last - first for first, last in zip(*marks, strict=True))
    rate = good / (minutes - 1)
    print(f"{rate:.0f} of 600 requests/min used ({rate / 600:.1%}), {refused / (good + refused):.2%} refused")


def measure_budget(folder: Path, runs: int = 100) -> None:
    """Print how near runs with faults came to a budget of 5 cents."""
    most = 0
    with serve_process() as server:
        for seed in range(runs):
            server.set_faults(Faults(seed, reset_after=0.05, broken_json=0.05, error_charged=0.03, overloaded=0.03))
            before, own = server.bill().picodollars, folder / str(seed)
            asking = teacher(server, own, 32, "0.05")
            with contextlib.suppress(kdtool.BudgetError):
                list(asking.kdtool_answer(requests(400, 1000 * seed)))
            asking.kdtool_close()
            billed, seen = server.bill().picodollars - before, read_summary(own / "ledger.sqlite")
            if not billed <= seen.spent + seen.held <= 5 * 10**10:
                sys.exit(f"run {seed}: billed {billed}, ledger {seen.spent} + {seen.held}")
            most = max(most, billed)
    print(f"{runs} runs: none above the budget, at most {most / 5e10:.1%} of it billed")


if __name__ == "__main__":
    os.environ["ANTHROPIC_API_KEY"] = KEY
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HOME"] = scratch
        {"speed": measure_speed, "rate": measure_rate, "budget": measure_budget}[sys.argv[1]](Path(scratch))

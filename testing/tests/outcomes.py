"""Runs pytest on files of a test, in a process of its own, and tells how each test ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RECORDER = """
import json
from pathlib import Path
PLACE = Path(__file__).with_name("outcomes.jsonl")
def record(report):
    with PLACE.open("a", encoding="utf-8") as file:
        text = str(report.longrepr) + getattr(report, "wasxfail", "")
        file.write(json.dumps([report.nodeid, report.outcome, text]) + "\\n")
def pytest_runtest_logreport(report):
    if report.when == "call" or not report.passed:
        record(report)
def pytest_collectreport(report):
    if report.failed:
        record(report)
"""


def outcomes_of(folder: Path, *options: str) -> list[tuple[str, str, str]]:
    """Run pytest in a folder; return the id, the outcome and what was said of each test, and of files that failed."""
    (folder / "conftest.py").write_text(RECORDER, encoding="utf-8")
    fixed = ["-q", "-p", "no:cacheprovider", "--rootdir=.", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *fixed, *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    lines = (folder / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()
    return [(test, outcome, text) for test, outcome, text in map(json.loads, lines)]

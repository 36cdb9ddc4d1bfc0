"""A stage without a run, for tests of executors: what it does depends on its name.

python -m kdtool_testing.toy.stage FOLDER NAME ATTEMPT
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

FAILURE = "the toy stage fails on purpose"
_LONG = 600.0


def outcome(folder: Path, name: str) -> Path:
    """Return the file that a stage writes once it has begun: its process and attempt."""
    return folder / f"{name}.json"


def make_stage(folder: Path, name: str, attempt: str) -> None:
    """Write a file; then fail ("fail"), die ("die" at attempt "0") or sleep ("sleep")."""
    file = outcome(folder, name)
    beside = file.with_suffix(f".{attempt}")
    beside.write_text(json.dumps({"pid": os.getpid(), "attempt": attempt}), encoding="utf-8")
    beside.replace(file)
    if name == "fail":
        raise ValueError(FAILURE)
    if name == "die" and attempt == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "sleep":
        time.sleep(_LONG)


if __name__ == "__main__":
    make_stage(Path(sys.argv[1]), *sys.argv[2:])

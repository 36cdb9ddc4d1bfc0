"""The process that uses wandb: reads settings, then events, from standard input, a JSON line each.

The end of the input without `run_end` means that the run was killed: its W&B runs are closed as failed, in limited
time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from kdtool_report.wandb.results import publish
from kdtool_report.wandb.tracking import Tracking

_ORPHAN_SECONDS = 60.0
"""Time to finish after the run was killed."""


def main() -> None:
    """Log events until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    events = _take_input()
    settings = json.loads(events.readline())
    tracking = Tracking(Path(settings.pop("folder")), settings)
    for line in events:
        if not line.endswith(b"\n"):  # torn by a kill
            break
        event = json.loads(line)
        tracking.take(event)
        if event["event"] == "run_end":
            if event["status"] == "done":
                publish(tracking)
            tracking.finish(event["status"])
    orphaned = threading.Timer(_ORPHAN_SECONDS, os._exit, [1])
    orphaned.daemon = True
    orphaned.start()
    tracking.finish("interrupted")


def _take_input() -> BinaryIO:
    """Return standard input, and put an empty one in its place.

    W&B's service would inherit it and keep the pipe open, so that the run would not notice the end of this process.
    """
    events = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    return events


if __name__ == "__main__":
    main()

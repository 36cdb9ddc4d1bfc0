"""Processes with limits for work on files of others, which can make a program loop for ever or exhaust the memory."""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock, Timer
from time import process_time
from typing import Any

_PATIENCE = 6
"""Seconds that a second of a processor may take: others may use it, and some systems limit only this."""
_LATE = {1, -24}
"""Exit status of faulthandler, and of the signal at the end of the processor's time."""


class LimitedProcess:
    """A process that runs a module; it starts when first used, and again after it ended. Threads may share it.

    The module calls `answer_questions`. An answer may take `seconds` of a processor, and `megabytes` besides what the
    process takes by itself. The process ends after `idle` seconds without a question; 0: never.
    """

    def __init__(self, module: str, seconds: int, megabytes: int, idle: float = 0) -> None:
        self._module, self._seconds, self._megabytes, self._idle = module, seconds, megabytes, idle
        self._lock = Lock()
        self._process: Any = None
        self._owner = 0
        self._timer = Timer(0, self._end_idle)
        atexit.register(self.close)

    def ask(self, **question: Any) -> dict[str, Any]:
        """Return the answer to a question; only the entry `error` if it failed or exceeded a limit."""
        with self._lock:
            self._timer.cancel()
            answer = self._ask(json.dumps(question, default=str).encode())
            if self._idle:
                self._timer = Timer(self._idle, self._end_idle)
                self._timer.daemon = True
                self._timer.start()
        return answer

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _end_idle(self) -> None:
        with self._lock:
            self.close()

    def _ask(self, question: bytes) -> dict[str, Any]:
        self.start()
        process = self._process
        try:
            process.stdin.write(question + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it ended before it had read the question
            line = b""
        except BaseException:  # an interrupt would leave the answer for the next question
            self.close()
            raise
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        is_late = process.wait() in _LATE
        self.close()
        return {"error": f"it takes more than {self._seconds} s" if is_late else _too_large(self._megabytes)}

    def start(self) -> None:
        """Start the process if it does not run, and do not wait for it."""
        if self._process is None or self._owner != os.getpid():  # a forked process starts another
            self._owner = os.getpid()
            self._process = subprocess.Popen(  # noqa: S603 - a module of this package
                [sys.executable, "-P", "-m", self._module, str(self._seconds), str(self._megabytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                start_new_session=True,  # Ctrl-C is for the parent
            )


def answer_questions(work: Callable[..., dict[str, Any]]) -> None:
    """Answer each question on standard input by `work`, until it is closed; end the process at its limits."""
    seconds, megabytes = map(int, sys.argv[1:])
    for line in sys.stdin:
        _limit(seconds, megabytes)
        faulthandler.dump_traceback_later(_PATIENCE * seconds, exit=True)  # ends the process in any state
        try:
            answer = work(**json.loads(line))
        except MemoryError:
            answer = {"error": _too_large(megabytes)}
        except Exception as error:
            answer = {"error": str(error)[:1000] or type(error).__name__}
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), flush=True)


def _too_large(megabytes: int) -> str:
    return f"it takes more than {megabytes:,} MB of memory"


def _limit(seconds: int, megabytes: int) -> None:
    with suppress(ImportError, OSError, ValueError):  # systems without such limits, or with lower ones
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(process_time()) + 1 + seconds, most))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        limit = pages * resource.getpagesize() + megabytes * 1_000_000
        # Not of addresses, since files of weights are mapped.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))

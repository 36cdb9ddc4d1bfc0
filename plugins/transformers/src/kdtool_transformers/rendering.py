"""Rendering of chat templates in a separate process, since a template can loop for ever or exhaust the memory.

Run as a module, this file is that process: it answers each line of JSON with another one, and exits at its limits.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

_SECONDS = 5
"""Limit of a rendering. A template of a published model takes less than a millisecond."""
_BYTES = 512_000_000
_LONGEST = 16_000_000
"""Characters of a rendered conversation."""
_LIMITS = f"{_SECONDS} s, {_BYTES // 1_000_000} MB of memory or {_LONGEST:,} characters"


class Renderer:
    """Renders conversations in a process that starts when first used, and again after it ended. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: Any = None
        self._owner = 0
        atexit.register(self.close)

    def render(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        """Return a conversation as transformers renders it with these settings, `chat_template` among them.

        Raises:
            ValueError: the template refuses the messages, or exceeds a limit.
        """
        with self._lock:
            answer = self._ask(json.dumps({"conversations": [messages], **settings}, default=str).encode())
        if "text" not in answer:
            raise ValueError(answer["error"])
        return str(answer["text"])

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _ask(self, question: bytes) -> dict[str, Any]:
        process = self._start()
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
        self.close()
        return {"error": f"rendering takes more than {_LIMITS}; give a model whose template is sound"}

    def _start(self) -> Any:
        if self._process is None or self._owner != os.getpid():  # a forked process starts another
            self._owner = os.getpid()
            self._process = subprocess.Popen(  # noqa: S603 - this file
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent
            )
            self._process.stdout.readline()  # it is ready
        return self._process


RENDERER = Renderer()
"""The renderer of this process."""


def _main() -> None:
    """Answer questions until standard input is closed."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    print(flush=True)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(_SECONDS, exit=True)  # ends the process in any state
        try:
            ((text,), _) = render_jinja_template(**json.loads(line))
            answer = {"text": text} if len(text) <= _LONGEST else {"error": f"it writes more than {_LIMITS}"}
        except MemoryError:
            answer = {"error": f"rendering takes more than {_LIMITS}"}
        except Exception as error:
            answer = {"error": str(error)[:1000] or type(error).__name__}
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), flush=True)


def _limit_memory() -> None:
    with suppress(ImportError, OSError, ValueError):  # systems without such a limit, or with a lower one
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + _BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    _main()

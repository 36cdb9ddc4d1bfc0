"""Run 10,000 tasks, some of them hostile, and say what they left behind: processes, files, descriptors, shared memory.

python benchmarks/sandbox_leftovers.py --tasks 10000
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kdtool_programs import Module, Sandbox, Task

_ADOPT = 36  # PR_SET_CHILD_SUBREAPER
TESTS = "assert f(1) == 2"
HONEST = "def f(x):\n    return x + 1\n"
HOSTILE = [
    "import os, time\nif os.fork() == 0:\n    os.setpgid(0, 0)\n    time.sleep(99)\n" + HONEST,
    "import os\nos.mkdir('/tmp/d')\nos.symlink('/usr', '/tmp/d/usr')\n" + HONEST,
    "import os\nos.kill(-1, 9)\n",
    "import os\nos._exit(0)\n",
    "import threading, time\n[threading.Thread(target=time.sleep, args=(99,)).start() for _ in range(5)]\n" + HONEST,
    "import os\npipes = [os.pipe() for _ in range(20)]\n" + HONEST,
    "import os, time\n[os.fork() for _ in range(3)]\nheld = b'x' * 2**27\ntime.sleep(9)\n"
    + HONEST,  # killed from outside
]


def _tasks(count: int) -> Iterator[Task]:
    for number in range(count):
        source = HOSTILE[number // 20 % len(HOSTILE)] if number % 20 == 0 else HONEST
        yield Task(str(number), Module(source, TESTS, ("f",)), 60.0)


def _state() -> dict[str, int]:
    """Count what belongs to this process; orphans below it become its children."""
    return {
        "processes": len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "files": len(list(Path(tempfile.gettempdir()).glob("kdtool-sandbox-*"))),
        "shared memory": len(Path("/proc/sysvipc/shm").read_text().splitlines()),
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
    }


def main() -> None:
    """Run, and print what was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    count = parser.parse_args().tasks
    tempfile.tempdir = tempfile.mkdtemp()  # so that nobody else's are counted
    ctypes.CDLL(None).prctl(_ADOPT, 1, 0, 0, 0)
    before, began = _state(), time.perf_counter()
    with Sandbox(workers=2) as sandbox:
        found = Counter(verdict.status for verdict in sandbox.run(_tasks(count)))
    seconds = time.perf_counter() - began
    after = _state()
    Path(tempfile.tempdir).rmdir()
    left = {name: after[name] - before[name] for name in before if after[name] != before[name]}
    print(json.dumps({"verdicts": found, "tasks/s": count / seconds, "before": before, "left": left}, indent=1))


if __name__ == "__main__":
    main()

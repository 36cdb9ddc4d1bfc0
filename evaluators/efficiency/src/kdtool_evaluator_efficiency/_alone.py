"""Memory of a model that kdtool opens in its own process: a new process opens only this model once more.

Run as `python -m kdtool_evaluator_efficiency._alone`, which reads a task from standard input and prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event, Thread

import kdtool
import psutil

from kdtool_evaluator_efficiency._timed import Answering
from kdtool_evaluator_efficiency._turns import Amount, Resident, UnmeasurableError

_COMMAND = [sys.executable, "-P", "-m", "kdtool_evaluator_efficiency._alone"]
_DEADLINE_SECONDS = 900.0
_BETWEEN_SECONDS = 0.01
_LITTLE = Amount(prompt=64, generated=2, seconds=0.1)


def read_alone(path: Path, context: int) -> Resident:
    """Open a model's folder or file in a new process, let it read `context` tokens, and return its peak memory.

    Raises:
        UnmeasurableError: the process failed; its last words are in the message.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own
            _COMMAND,
            input=json.dumps({"path": str(path), "context": context}),
            capture_output=True,
            text=True,
            timeout=_DEADLINE_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UnmeasurableError(f"a separate process did not read a prompt in {_DEADLINE_SECONDS:.0f} s") from None
    except subprocess.CalledProcessError as error:
        if error.returncode < 0:
            raise UnmeasurableError(
                f"a separate process was ended by signal {-error.returncode}; it may have lacked memory"
            ) from None
        words = error.stderr.strip().splitlines()
        raise UnmeasurableError(f"a separate process failed: {words[-1] if words else error.returncode}") from None
    return Resident(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Open the model, read, and print the memory it needed."""
    task = json.loads(sys.stdin.read())
    os.environ["HF_HUB_OFFLINE"] = "1"
    with kdtool.open_models(task["path"], offline=True) as models:
        (name,) = models.subjects
        with models.open(name) as runtime:
            model = Answering(runtime, _LITTLE)
            with _most_resident() as sizes:
                room, tokens = model.fill(task["context"])
    print(json.dumps(asdict(Resident(room, tokens, max(sizes)))))


@contextmanager
def _most_resident() -> Iterator[list[int]]:
    """Give a list that gets the memory resident in this process, again and again until the context ends."""
    process, ended = psutil.Process(), Event()
    sizes = [process.memory_info().rss]

    def watch() -> None:
        while not ended.wait(_BETWEEN_SECONDS):
            sizes.append(process.memory_info().rss)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()

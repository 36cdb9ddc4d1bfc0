"""Kill two machines that share a store, at random moments and behind a faulty network, and look for damage.

    python plugins/cloud/tests/store/stopped_anywhere.py [--kills 200] [--faults 0.1] [--store file]

Both make the same artefacts, of random content, and write answers of teachers. After every pair of kills each manifest in
the store must be the one that was there before, with all its parts; each artefact in a local folder must be whole; and at
the end both machines and the store have the same bytes, and the answers that were copied up before a kill are all there.
Ends with 1 and the damage if there is any. Linux and macOS only: it forks, so that a machine starts in milliseconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

os.environ["KDTOOL_LEASE_RENEWAL"] = "0.3"  # before it is imported

import kdtool
import kdtool_cloud.store.artefacts as parts
from kdtool._run.context import open_remote
from kdtool._store.artefacts import Artefacts, verify
from kdtool._store.shared import cache_folder
from kdtool_cloud.store import open_objects
from kdtool_cloud.store.leases import EXPIRY
from kdtool_cloud.store.snapshots import Answers
from object_server import KEYS

__all__: list[str] = []

PARTS = 1 << 14
SIZE = 5 * PARTS + 7
AHEAD = 2
ROUNDS_FOR_EACH = 3
"""Pairs of kills in which the machines try to make the same artefacts."""


def work(place: Path, machine: str, address: str, numbers: list[int], seed: int) -> None:
    """Make artefacts on one machine, and answers that are noted as copied once they are."""
    parts.PART = PARTS
    store, chosen = cache_folder(address), random.Random(seed)
    remote = open_remote(store)
    artefacts = Artefacts(store, remote, "store")
    copied = place / f"{machine}.copied"
    with remedied(store), remote.run(machine, place / f"run-{machine}"):
        for number in chosen.sample(numbers, len(numbers)):
            added = add_answer(store, remote) if chosen.random() < 0.7 else ""
            artefacts.make("rows", "", fingerprint(number), build=build, waiting=lambda _: None)
            if added:
                with copied.open("a") as file:
                    file.write(f"{added}\n")


@contextmanager
def remedied(store: Path) -> Iterator[None]:
    """Do what the message says if another machine has gone on with other answers; end the block then."""
    try:
        yield
    except kdtool.StorageError as error:
        if "each have answers" not in str(error):
            raise
        for file in store.glob("answers.sqlite*"):
            file.unlink()


def build(folder: Path) -> None:
    """Write files that are never the same again: several parts, less than one, and none."""
    (folder / "deep").mkdir(exist_ok=True)
    for name, size in {"deep/large": SIZE, "small": 1000, "empty": 0}.items():
        (folder / name).write_bytes(os.urandom(size))


def add_answer(store: Path, remote: object) -> str:
    """Write an answer and return its key; "" while another machine writes answers."""
    opened = False
    with remedied(store), suppress(kdtool.LockedError):
        remote.open_answers()  # type: ignore[attr-defined]
        opened = True
    if not opened:
        return ""
    key = os.urandom(8).hex()
    with closing(kdtool.open_answers(store / "answers.sqlite")) as database:
        database.execute("INSERT INTO answer VALUES (?, '{}', '')", (key,))
    return key


def look(place: Path, address: str, seen: Path) -> None:
    """Look for damage in the store and in the local folders."""
    objects = open_objects(address)
    before = json.loads(seen.read_text()) if seen.exists() else {}
    there = objects.list("store")
    manifests = {key: objects.read(key).decode() for key in there if key.endswith("manifest.json")}
    for key, text in before.items():
        assert manifests.get(key) == text, f"{key} has changed"
    for key in manifests.keys() - before.keys():
        for name, entry in json.loads(manifests[key])["files"].items():
            content, start = b"", 0
            while start < entry["bytes"]:
                content += objects.read(f"{key.rpartition('/')[0]}/{entry['sha256']}.{start}")
                start = len(content)
            assert hashlib.sha256(content).hexdigest() == entry["sha256"], f"{key}: {name} is damaged"
    seen.write_text(json.dumps(manifests))
    for folder in (folder for machine in "ab" for folder in (place / machine).glob("*/rows/*")):
        if folder.is_dir() and not folder.suffix:
            verify(folder)


def compare(place: Path, address: str, numbers: list[int]) -> None:
    """Bring everything to both machines, and compare them; then look for the answers."""
    digests = []
    for machine in "ab":
        os.environ["KDTOOL_STORE_CACHE"] = str(place / machine)
        store = cache_folder(address)
        remote = open_remote(store)
        for number in numbers:
            Artefacts(store, remote, "store").make("rows", "", fingerprint(number), build=build, waiting=lambda _: None)
        files = sorted(path for path in store.glob("rows/*/**/*") if path.is_file() and ".fetching" not in str(path))
        files = [path for path in files if not any(folder.suffix == ".partial" for folder in path.parents)]
        digests.append({path.relative_to(store): hashlib.sha256(path.read_bytes()).digest() for path in files})
    differing = sorted(str(path) for path, _ in digests[0].items() ^ digests[1].items())
    assert not differing, f"the machines have different artefacts: {differing}"
    time.sleep(EXPIRY)
    answers = Answers(open_objects(address), place / "third" / "answers.sqlite", "third", address)
    answers.open()
    with closing(kdtool.open_answers(place / "third" / "answers.sqlite")) as database:
        keys = {key for (key,) in database.execute("SELECT key FROM answer")}
    answers.close()
    copied = {key for file in place.glob("*.copied") for key in file.read_text().split()}
    assert copied <= keys, f"{len(copied - keys)} of {len(copied)} answers are lost"
    print(f"{len(numbers)} artefacts, {len(copied)} answers copied, {len(keys)} in the store")


def fingerprint(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def fork(task: Callable[[], None], errors: Path) -> int:
    """Do a task in a separate process and return its id; its error is written to a file."""
    child = os.fork()
    if child:
        return child
    try:
        task()
    except BaseException:
        errors.write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def run(place: Path, address: str, kills: int, seed: int, longest: float) -> int:
    """Kill machines `kills` times, after `longest` seconds at most; return 1 if there is damage."""
    chosen, done, errors = random.Random(seed), 0, place / "error"
    machine_errors = place / "machine-error"
    rounds = 0
    while done < kills:
        first = rounds // ROUNDS_FOR_EACH
        children = {}
        for machine in "ab":
            os.environ["KDTOOL_STORE_CACHE"] = str(place / machine)
            numbers, task_seed = list(range(first, first + AHEAD)), chosen.randrange(10**9)
            task = partial(work, place, machine, address, numbers, task_seed)
            children[machine] = fork(task, machine_errors)
        for child in chosen.sample(list(children.values()), 2):
            time.sleep(chosen.uniform(0.1, longest))
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            done += os.WIFSIGNALED(status)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status):
                print(machine_errors.read_text(), file=sys.stderr)
                return 1
        rounds += 1
        if _fails(fork(partial(look, place, address, place / "seen"), errors), errors):
            return 1
        print(f"\r{done} kills in {rounds} rounds", end="", file=sys.stderr, flush=True)
    last = (rounds - 1) // ROUNDS_FOR_EACH + AHEAD
    print(f"\n{done} kills in {rounds} rounds: nothing is damaged")
    return int(_fails(fork(partial(compare, place, address, list(range(last))), errors), errors))


def _fails(child: int, errors: Path) -> bool:
    _, status = os.waitpid(child, 0)
    if status:
        print(errors.read_text(), file=sys.stderr)
    return bool(status)


def main() -> int:
    """Start the server, and kill."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--faults", type=float, default=0.1, help="share of requests that fail or are delayed")
    parser.add_argument("--longest", type=float, default=3.0, help="seconds that a machine works, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=["s3", "file"], default="s3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdtool-stopped-") as folder:
        place = Path(folder)
        if options.store == "file":
            return run(place, f"file://{place}/shared", options.kills, options.seed, options.longest)
        command = [sys.executable, str(Path(__file__).with_name("object_server.py")), "--faults", str(options.faults)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert server.stdout is not None
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.stdout.readline().strip()}"}
        try:
            return run(place, "s3://bucket/kdtool", options.kills, options.seed, options.longest)
        finally:
            assert server.stdin is not None
            server.stdin.close()
            print(server.stdout.read().strip())
            server.wait()


if __name__ == "__main__":
    sys.exit(main())

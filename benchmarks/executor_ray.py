"""A run on a Ray cluster of two nodes of this machine, each with one core, and the same run without it.

    python benchmarks/executor_ray.py same               # artefacts byte for byte, and the ratio of times
    python benchmarks/executor_ray.py kills --kills 20   # kills processes of stages, and the cluster's head once
    python benchmarks/executor_ray.py overhead           # seconds that a stage costs more

The run is the recipe quickstart-seeds with few steps and little held-out text. Its control at equal time is left out,
whose steps depend on the clock; the student tuned on its own samples takes its place. Every process has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ray_cluster = runpy.run_path(str(ROOT / "plugins/cloud/tests/ray/ray_cluster.py"))["ray_cluster"]
toy_recipe = runpy.run_path(str(ROOT / "core/tests/toy_recipe.py"))["toy_recipe"]
RECIPE = "quickstart-seeds"
SETTINGS = (
    *("control.match=[tokens]", "control.self=true", "exporters=[]", "evaluators.efficiency=false"),
    *("evaluators.perplexity.limit=4", "evaluators.agreement.limit=4"),
)


def start(folder: Path, recipe: str, settings: tuple[str, ...], address: str | None) -> subprocess.Popen[bytes]:
    """Start a run with an own folder and store, on the cluster at `address` if one is given."""
    if address:
        settings = (*settings, "executor.use=ray", f"executor.address={address}", "executor.logs=false")
    command = [sys.executable, "-m", "kdtool", "run", str(recipe), "--out", str(folder), "--store", f"{folder}-store"]
    for setting in settings:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder.parent)


def run(folder: Path, recipe: str, settings: tuple[str, ...], address: str | None = None) -> float:
    """Run to the end, and return the seconds that it took."""
    begun = time.monotonic()
    if start(folder, recipe, settings, address).wait():
        raise SystemExit(folder.with_suffix(".log").read_text(encoding="utf-8"))
    return time.monotonic() - begun


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of each file of all artefacts of the run and of its store, without measured seconds and bytes."""
    found: dict[str, str] = {}
    for manifest in [*folder.rglob("manifest.json"), *Path(f"{folder}-store").rglob("manifest.json")]:
        place = "/".join(manifest.parent.parts[-2:])
        for name, entry in json.loads(manifest.read_bytes()).get("files", {}).items():
            measured = name in ("history.jsonl", "trained.json")
            found[f"{place}/{name}"] = without_figures(manifest.parent / name) if measured else entry["sha256"]
    return found


def without_figures(file: Path) -> str:
    """Return a training's report without what differs each time: its seconds and memory."""
    return re.sub(r'"(seconds|memory)": [0-9.e+-]+', "", file.read_text(encoding="utf-8"))


def report_equal(one: Path, many: Path) -> None:
    """Print how many files are equal, and the names of those that are not."""
    expected, found = contents(one), contents(many)
    differ = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    print(f"files of artefacts: {len(expected)}; different: {len(differ)}", *differ[:20], sep="\n  ")


def same(folder: Path, steps: int, repeats: int) -> None:
    """Make the run with and without the cluster, and compare artefacts and times."""
    ratios = []
    for repeat in range(repeats):
        settings = (*SETTINGS, f"train.steps={steps}")
        with tempfile.TemporaryDirectory(prefix="ray-") as short, ray_cluster(Path(short)) as address:
            many = run(folder / f"many-{repeat}", RECIPE, settings, address)
        one = run(folder / f"one-{repeat}", RECIPE, settings)
        ratios.append(one / many)
        print(f"without executor {one:.1f} s, on two nodes {many:.1f} s: {one / many:.2f} times as fast", flush=True)
        report_equal(folder / f"one-{repeat}", folder / f"many-{repeat}")
    print(f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def kills(folder: Path, steps: int, count: int, seed: int) -> None:
    """Make the run without the cluster, and on it with kills; compare artefacts, and count how often each was made."""
    settings = (*SETTINGS, f"train.steps={steps}")
    one, many, rng = folder / "one", folder / "many", random.Random(seed)
    print(f"without executor {run(one, RECIPE, settings):.1f} s", flush=True)
    killed, head_at = Counter[str](), rng.randrange(count // 4, count)
    while True:
        with tempfile.TemporaryDirectory(prefix="ray-") as short, ray_cluster(Path(short)) as address:
            process, before = start(many, RECIPE, settings, address), head_at
            head_at = kill_while(process, many, rng, killed, count, head_at, short)
            code = process.wait()
        print(f"the run ended with exit code {code} after {killed.total()} kills", flush=True)
        if code == 0:
            break
        if head_at == before:  # it failed although its cluster lived
            raise SystemExit(many.with_suffix(".log").read_text(encoding="utf-8"))
    print("kills by stage:", dict(killed))
    report_equal(one, many)
    made = Counter((event["stage"], event["label"]) for event in ended_stages(many) if not event["reused"])
    print(f"stages made: {len(made)}; made more than once: {[name for name, times in made.items() if times > 1]}")


def kill_while(
    process: subprocess.Popen[bytes],
    folder: Path,
    rng: random.Random,
    killed: Counter[str],
    count: int,
    head: int,
    short: str,
) -> int:
    """Kill processes of stages at random moments until the run ends; return when the head is to be killed (-1: it was)."""
    while process.poll() is None:
        time.sleep(rng.uniform(2, 12))
        if killed.total() == head:
            head = -1
            subprocess.run(["pkill", "-KILL", "-f", f"gcs_server.*{short}"], check=True)
            print("killed the cluster's head", flush=True)
            continue
        places = [place for place in running(folder) if killed[place["title"]] < 4]
        if places and killed.total() < count:
            place = rng.choice(places)
            try:
                os.kill(place["pid"], signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed[place["title"]] += 1
    return head


def running(folder: Path) -> list[dict[str, Any]]:
    """Return the stages that are made now, each with its process."""
    for file in folder.glob("*/tasks/places.json"):
        try:
            places: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
            return places
        except (OSError, ValueError):
            break
    return []


def ended_stages(folder: Path) -> list[dict[str, Any]]:
    """Return the events of stages that ended."""
    (file,) = folder.glob("*/events.jsonl")
    events = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [event for event in events if event["event"] == "stage_end"]


def overhead(folder: Path, repeats: int) -> None:
    """Compare runs of a recipe whose stages take milliseconds, with few and with many seeds."""
    stages = {}
    times: dict[tuple[bool, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="ray-") as short, ray_cluster(Path(short), nodes=1) as address:
        for repeat in range(repeats):
            for seeds in (2, 22):
                recipe = folder / f"toy-{seeds}.json"
                recipe.write_text(json.dumps({**toy_recipe(), "seeds": [*range(seeds)]}), encoding="utf-8")
                for on_ray in (False, True):
                    out = folder / f"toy-{seeds}-{on_ray}-{repeat}"
                    seconds = run(out, recipe, (), address if on_ray else None)
                    times.setdefault((on_ray, seeds), []).append(seconds)
                stages[seeds] = len({(event["stage"], event["label"]) for event in ended_stages(out)})
    more = stages[22] - stages[2]
    each = [
        (many - few - (own_many - own_few)) / more
        for many, few, own_many, own_few in zip(
            times[True, 22], times[True, 2], times[False, 22], times[False, 2], strict=True
        )
    ]
    print(f"{more} stages more: {statistics.median(each):.3f} s each ({min(each):.3f} to {max(each):.3f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("same", "kills", "overhead"))
    parser.add_argument("--folder", type=Path, help="by default a new one")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    place = options.folder or Path(tempfile.mkdtemp(prefix="executor-ray-"))
    place.mkdir(parents=True, exist_ok=True)
    if options.what == "same":
        same(place, options.steps, options.repeats)
    elif options.what == "kills":
        kills(place, options.steps, options.kills, options.seed)
    else:
        overhead(place, options.repeats)

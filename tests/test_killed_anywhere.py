"""kill -9 at moments spread over every stage of a run: it ends with the same weights and does nothing twice that it kept."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
from run_process import command, log_of, recipe_with_faults

_EVERY = 3
"""Steps between checkpoints in these runs."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")]


def made_by(log: Path) -> list[tuple[float, int]]:
    """Return the seconds and the steps of everything that an uninterrupted run made, in order; last the report."""
    found, begun, steps = [], 0.0, 0
    for time, (what, *_) in log_of(log):
        if what == "step":
            steps += 1
        elif what in {"made", "end"}:
            found.append((time - begun, steps))
        if what in {"start", "made"}:
            begun, steps = time, 0
    return found


def one_each(nodes: list[tuple[float, int]]) -> list[str]:
    """Choose the same moments every time: half-way through each node, by its steps where it trains."""
    return [
        f"{node} kill-at-step {steps // 2}" if steps > 2 else f"{node} kill {seconds / 2}"
        for node, (seconds, steps) in enumerate(nodes)
    ]


def at_random(nodes: list[tuple[float, int]], generator: random.Random) -> list[str]:
    """Choose moments in order: while steps are trained, and one at any time in every node."""
    found = []
    for node, (seconds, steps) in enumerate(nodes):
        # The last two steps are left to the second kind, so that the node is not complete before its last moment.
        chosen = generator.sample(range(1, steps - 1), k=min(3, steps - 2)) if steps > 2 else []
        found += [f"{node} kill-at-step {step}" for step in sorted(chosen)]
        found.append(f"{node} kill {generator.random() * seconds}")
    return found


@pytest.mark.parametrize("random_moments", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_killed_in_every_stage_the_run_ends_as_if_it_had_not_been(
    recipe: dict[str, Any], tmp_path: Path, random_moments: bool
) -> None:
    file = recipe_with_faults(recipe, tmp_path)
    log, killed_log = tmp_path / "whole.log", tmp_path / "killed.log"
    whole, killed = tmp_path / "whole" / "small", tmp_path / "killed" / "small"
    code, said = command(file, whole.parent, tmp_path / "whole-store", log)
    assert code == 0, said
    give_same_time(whole, killed)
    leave_behind(tmp_path / "whole-store", tmp_path / "killed-store")
    leave_behind(whole, killed)
    nodes = made_by(log)
    chosen = one_each(nodes)
    if random_moments:
        seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))
        print(f"again with these moments: KILL_SEED={seed}")  # shown when the test fails
        chosen = at_random(nodes, random.Random(seed))
        assert len(chosen) >= 20
    for moment in chosen:
        settings = {"FAULT": moment, "FAULT_NODES": str(len(nodes) - 1)}
        code, said = command(file, killed.parent, tmp_path / "killed-store", killed_log, **settings)
        assert code == -signal.SIGKILL, said
    code, said = command(file, killed.parent, tmp_path / "killed-store", killed_log)
    assert code == 0, said

    hit = {int(words[2]) for _, words in log_of(killed_log) if words[0] == "killed"}
    assert hit == set(range(len(nodes)))
    same_files(tmp_path / "whole-store", tmp_path / "killed-store")
    same_files(whole, killed)
    assert measured(killed) == measured(whole)
    nothing_kept_is_done_again(killed_log)
    assert steps_logged(killed) == steps_logged(whole)


def steps_logged(folder: Path) -> dict[tuple[str, str], dict[int, float]]:
    """Return the losses of each arm and phase by step; a step that was made again supersedes it and those after it."""
    losses: dict[tuple[str, str], dict[int, float]] = {}
    for event in map(json.loads, (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()):
        if event["event"] == "step_end":
            step, place = event["report"]["step"], (event["arm"], event["phase"])
            earlier = {number: loss for number, loss in losses.get(place, {}).items() if number < step}
            losses[place] = {**earlier, step: event["report"]["loss"]}
    return losses


def measured(folder: Path) -> list[Any]:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return [[each["name"], each["subject"], each["value"]] for each in results["measurements"]]


def give_same_time(whole: Path, killed: Path) -> None:
    """Let the control that is matched in time have the steps that it had: two runs do not measure the same times."""
    (kept,) = (whole / "phases").glob("control-time-*/steps.json")
    partial = killed / "phases" / f"{kept.parent.name}.partial"
    partial.mkdir(parents=True)
    shutil.copyfile(kept, partial / kept.name)
    kdtool.commit(partial, partial / kept.name)


def leave_behind(whole: Path, killed: Path) -> None:
    """Lay temporary files where a process that is killed in the midst of writing weights leaves them."""
    for weights in whole.glob("*/*/**/*.safetensors"):
        kind, name, *inner = weights.relative_to(whole).parts
        if (
            kind != "rows" and (whole / kind / name / "manifest.json").exists()
        ):  # others: by the core, without these files
            left = killed.joinpath(kind, f"{name}.partial", *inner).with_name(".tmpA1b2C3")
            left.parent.mkdir(parents=True, exist_ok=True)
            left.write_text("half of the weights", encoding="utf-8")


def same_files(whole: Path, killed: Path) -> None:
    """Compare the files of two runs, or of their stores; only what tells times or places may differ."""
    timed = {"manifest.json", "history.jsonl", "trained.json", "events.jsonl"}
    ignored = {*timed, "results.json", "report.html", "graph.json"}
    found = []
    for root in (whole, killed):
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.parent.name != "runs")
        found.append({path.relative_to(root): path.read_bytes() for path in files if not path.name.endswith(".lock")})
    assert found[0].keys() == found[1].keys()
    differ = [path for path, content in found[0].items() if content != found[1][path] and path.name not in ignored]
    assert differ == []
    assert [path for path in found[0] if path.name == "model.safetensors"]


def nothing_kept_is_done_again(log: Path) -> None:
    """Check that a finished node is never begun again, and that training goes on from its last checkpoint."""
    finished: set[int] = set()
    node, step, checkpoint = 0, 0, 0
    resumed = False
    for _, (what, *which) in log_of(log):
        if what in {"killed", "end"}:
            node, resumed = 0, True
        elif what == "start":
            assert node not in finished
        elif what in {"made", "reused"}:
            if node not in finished:  # also one that was killed between its last step and saying that it was made
                step, checkpoint = 0, 0
            finished.add(node)
            node += 1
        elif what == "checkpoint":
            checkpoint = int(which[1])
        elif what == "step":
            done = int(which[1]) - 1
            # A checkpoint is written beside the steps: a killed run may have one more than was reported.
            assert done in range(checkpoint, step + 1, _EVERY) if resumed else done == step
            step, resumed = done + 1, False

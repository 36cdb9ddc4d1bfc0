"""kill -9, Ctrl-C and SIGTERM in every stage of a run: it ends with the same bits, and does nothing twice that it kept.

On each push a run is killed once in every stage, at a fixed moment; at night at random.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
import pytest
from run_process import command, log_of, recipe_with_faults
from whole_runs import without

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")]

ADAPTER = {"r": 4, "alpha": 32, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
PHASES = ("adapt", "distil", "finetune", "again", "qat")
STEPS, EVERY = 6, 3
"""Steps of a phase, and between checkpoints."""


class Whole(NamedTuple):
    """An uninterrupted run of five phases: its recipe, its folder, and the log of its tracker."""

    recipe: Path
    folder: Path
    store: Path
    log: Path


@pytest.fixture(scope="module")
def whole(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A teacher is adapted; a student learns from it, and then with adapters, adapters on 4 bits, and for few bits."""
    root = tmp_path_factory.mktemp("whole")
    learn = {"losses": {"ce": {}}, "steps": STEPS, "trainer": {"learning_rate": 2e-2, "weight_decay": 0.1}}
    corpus = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 1}
    lora = {"lora": {**ADAPTER, "keep_adapter": True}}
    recipe = {
        **small_recipe,
        "exporters": {"safetensors": {"dtype": "float32"}},
        "control": {"match": ["tokens", "time"], "losses": {"ce": {}}},
        "train": {
            "adapt": {**learn, "trains": "teacher", "transforms": {"lora": ADAPTER}},
            "distil": {"losses": small_recipe["train"]["losses"], "steps": STEPS},
            "finetune": {**learn, "corpus": corpus, "transforms": lora},
            "again": {**learn, "transforms": {"qlora": ADAPTER, "gradient-checkpointing": {}}},
            "qat": {**learn, "transforms": {"qat": {}}},
        },
    }
    file = recipe_with_faults(recipe, root)
    code, said = command(file, root / "runs", root / "store", root / "log")
    assert code == 0, said
    return Whole(file, root / "runs" / "small", root / "store", root / "log")


class Node(NamedTuple):
    """What a run made or reused: its stage, arm, seconds and steps."""

    stage: str
    seconds: float
    steps: int
    reused: bool


def nodes_of(log: Path) -> list[Node]:
    """Return all nodes of an uninterrupted run in order; last the report."""
    found, begun, steps = [], 0.0, 0
    for time, (what, *which) in log_of(log):
        steps += what == "step"
        if what in {"made", "reused", "end"}:
            found.append(Node(which[0], time - begun, steps, what == "reused"))
        if what in {"start", "made", "reused"}:
            begun, steps = time, 0
    return found


def one_each(nodes: list[Node]) -> list[str]:
    """Choose a fixed moment in the first node of each stage, and in each phase of the teacher and the student."""
    stages = [node.stage for node in nodes]
    first = {stages.index(stage) for stage in stages}
    phases = [number for number, stage in enumerate(stages) if stage == "phases:student"]
    return [
        f"{number} kill-at-step {STEPS - 1}" if nodes[number].steps else f"{number} kill {nodes[number].seconds / 2}"
        for number in sorted({*first, *phases})
        if not nodes[number].reused
    ]


def at_random(nodes: list[Node]) -> list[str]:
    """Choose moments in order: while steps are trained, and one at any time in every node."""
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"again with these moments: KILL_SEED={seed}")  # shown when the test fails
    generator, found = random.Random(seed), []
    for number, node in enumerate(nodes):
        if not node.reused:
            # The last two steps are left to the second kind, so that the node is not complete before its last moment.
            steps = generator.sample(range(1, node.steps - 1), k=2) if node.steps > 3 else []
            found += [f"{number} kill-at-step {step}" for step in sorted(steps)]
            found.append(f"{number} kill {generator.random() * node.seconds}")
    return found


@pytest.mark.parametrize("choose", [one_each, pytest.param(at_random, marks=pytest.mark.nightly)])
def test_killed_in_every_stage_the_run_ends_as_if_it_had_not_been(
    whole: Whole, tmp_path: Path, choose: Callable[[list[Node]], list[str]]
) -> None:
    log, killed, store = tmp_path / "log", tmp_path / "runs" / "small", tmp_path / "store"
    give_same_time(whole.folder, killed)
    leave_behind(whole.store, store)
    leave_behind(whole.folder, killed)
    nodes = nodes_of(whole.log)
    moments = choose(nodes)
    assert len(moments) > 10
    for moment in moments:
        settings = {"FAULT": moment, "FAULT_NODES": str(len(nodes) - 1)}
        code, said = command(whole.recipe, killed.parent, store, log, **settings)
        assert code == -signal.SIGKILL, (moment, said)
    code, said = command(whole.recipe, killed.parent, store, log)
    assert code == 0, said

    hit = {int(words[2]) for _, words in log_of(log) if words[0] == "killed"}
    assert hit == {int(moment.split()[0]) for moment in moments}
    same_files(whole.store, store)
    same_files(whole.folder, killed)
    assert measured(killed) == measured(whole.folder)
    nothing_kept_is_done_again(log)
    assert steps_logged(killed) == steps_logged(whole.folder)


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
    """Let controls that are matched in time have the steps that they had: two runs do not measure the same times."""
    for kept in (whole / "phases").glob("control-time-*/steps.json"):
        partial = killed / "phases" / f"{kept.parent.name}.partial"
        partial.mkdir(parents=True)
        shutil.copyfile(kept, partial / kept.name)
        kdtool.commit(partial, partial / kept.name)


def leave_behind(whole: Path, killed: Path) -> None:
    """Lay temporary files where a process that is killed in the midst of writing weights leaves them."""
    for file in whole.glob("*/*/**/*.safetensors"):
        kind, name, *inner = file.relative_to(whole).parts
        if kind != "rows" and (whole / kind / name / "manifest.json").exists():  # others: by the core, without them
            left = killed.joinpath(kind, f"{name}.partial", *inner).with_name(".tmpA1b2C3")
            left.parent.mkdir(parents=True, exist_ok=True)
            left.write_text("half of the weights", encoding="utf-8")


def same_files(whole: Path, killed: Path) -> None:
    """Compare the files of two runs, or of their stores; only what tells times or places may differ."""
    timed = {"manifest.json", "history.jsonl", "trained.json", "events.jsonl"}
    places = {"adapter/README.md", "adapter/adapter_config.json"}
    ignored = {*timed, *places, "results.json", "report.html", "graph.json"}
    found = []
    for root in (whole, killed):
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.parent.name != "runs")
        found.append({path.relative_to(root): path.read_bytes() for path in files if not path.name.endswith(".lock")})
    assert found[0].keys() == found[1].keys()
    differ = [path for path, content in found[0].items() if content != found[1][path]]
    differ = [path for path in differ if not {path.name, f"{path.parent.name}/{path.name}"} & ignored]
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
            assert done in range(checkpoint, step + 1, EVERY) if resumed else done == step
            step, resumed = done + 1, False


def test_every_phase_is_counted_and_shown(whole: Whole) -> None:
    results = kdtool.load(whole.folder)
    arms = {arm.arm: arm for arm in results.arms}
    assert tuple(arms["teacher"].phases) == PHASES[:1]
    assert tuple(arms["student"].phases) == PHASES[1:] == tuple(arms["control"].phases)
    tokens = [{name: done.tokens for name, done in arms[arm].phases.items()} for arm in ("student", "control")]
    assert tokens[0] == tokens[1]
    own = results.data["phases"]
    assert tuple(own) == PHASES
    assert own["adapt"]["trains"] == "teacher"
    assert own["finetune"]["bytes"] < own["distil"]["bytes"] == own["again"]["bytes"]
    page = (whole.folder / "report.html").read_text(encoding="utf-8")
    for name in PHASES:
        assert f"seed 0, {name}" in page
        assert f"{name}</h" in page or f">{name}<" in page


def test_a_stopped_phase_resumes_at_its_last_step_to_the_same_weights(recipe: dict[str, Any], tmp_path: Path) -> None:
    trainer = {**recipe["trainer"], "checkpoint_every": 100}
    file = recipe_with_faults({**without(recipe, "control", "exporters", "reporter"), "trainer": trainer}, tmp_path)
    log, stopped = tmp_path / "whole.log", tmp_path / "stopped.log"
    code, said = command(file, tmp_path / "whole", tmp_path / "whole-store", log)
    assert code == 0, said
    node = [node.stage for node in nodes_of(log)].index("phases:student")

    def run(fault: str) -> tuple[int, str]:
        return command(file, tmp_path / "stopped", tmp_path / "store", stopped, FAULT=f"{node} {fault}")

    code, said = run("kill-at-step 2")
    assert code == -signal.SIGKILL, said
    code, said = run(f"signal-{signal.SIGINT:d}-at-step 3")
    assert code == 130, said
    assert "starts again: it was interrupted before its first checkpoint" in said
    assert "interrupted at step 3 of 8; it resumes at step 3" in said
    code, said = run(f"signal-{signal.SIGTERM:d}-at-step 8")  # the checkpoint is of the last step
    assert code == 130, said
    assert "resumes at step 3 of 8" in said
    assert "interrupted at step 8 of 8; it resumes at step 8" in said
    assert "stopped by SIGTERM; finished work is kept" in said
    assert "Traceback" not in said
    code, said = run("nothing 0")
    assert code == 0, said
    steps = [int(words[2]) for _, words in log_of(stopped) if words[0] == "step"]
    assert [*steps[-8:]] == [*range(1, 9)]
    same_files(tmp_path / "whole", tmp_path / "stopped")

"""kill -9, Ctrl-C and SIGTERM in every stage of a run: it ends with the same bits, and does nothing twice that it kept.

On each push a run is killed once in every stage, at a fixed moment; at night at random, and with every kind of damage.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
import pytest
from run_process import command, log_of, recipe_with_faults
from whole_runs import logits, weights, without

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")]

ADAPTER = {"r": 4, "alpha": 32, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
PHASES = ("adapt", "distil", "finetune", "again", "qat")
STEPS, EVERY = 6, 3
"""Steps of a phase, and between checkpoints."""
WATCH = '''
import json
from hashlib import sha256

import kdtool
import torch


class Watch(kdtool.Transform):
    """Follows the transform that it watches: hashes what is frozen and what learns, before and after the steps."""

    def kdtool_transform(self, student, run):
        before = self._hashes(student.model)
        yield student
        found = {"before": before, "after": self._hashes(student.model)}
        (run.folder / "watched.json").write_text(json.dumps(found), encoding="utf-8")

    def _hashes(self, model):
        return {
            kind: {
                name: sha256(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
                for name, parameter in model.named_parameters() if parameter.requires_grad is learns
            }
            for kind, learns in (("frozen", False), ("learning", True))
        }
'''


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
    (root / "watch.py").write_text(WATCH, encoding="utf-8")
    watch = {"watch": {"use": f"{root / 'watch.py'}:Watch"}}
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
            "finetune": {**learn, "corpus": corpus, "transforms": {**lora, **watch}},
            "again": {**learn, "transforms": {"qlora": ADAPTER, **watch, "gradient-checkpointing": {}}},
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


def test_phases_leave_alone_what_is_frozen_and_are_shown(whole: Whole) -> None:
    results = kdtool.load(whole.folder)
    arms = {arm.arm: arm for arm in results.arms}
    assert tuple(arms["teacher"].phases) == PHASES[:1]
    assert tuple(arms["student"].phases) == PHASES[1:] == tuple(arms["control"].phases)
    tokens = [{name: done.tokens for name, done in arms[arm].phases.items()} for arm in ("student", "control")]
    assert tokens[0] == tokens[1]
    for name in ("finetune", "again"):
        for arm in ("student", "control"):
            file = f"phases/{arm}-seed0-{name}-*/watched.json"
            (watched,) = [*whole.folder.glob(file), *whole.store.glob(file)]
            found = json.loads(watched.read_text(encoding="utf-8"))
            before, after = found["before"], found["after"]
            assert before["frozen"] == after["frozen"], "the base is bit-identical after the steps"
            assert len(before["frozen"]) > 10
            assert all("lora_" in learning for learning in before["learning"])
            changed = {key for key, value in before["learning"].items() if after["learning"][key] != value}
            assert changed >= {key for key in before["learning"] if "lora_B" in key}
    own = results.data["phases"]
    assert tuple(own) == PHASES
    assert own["adapt"]["trains"] == "teacher"
    assert own["finetune"]["bytes"] < own["distil"]["bytes"] == own["again"]["bytes"]
    page = (whole.folder / "report.html").read_text(encoding="utf-8")
    for name in PHASES:
        assert f"seed 0, {name}" in page
        assert f"{name}</h" in page or f">{name}<" in page


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own call
def test_adapters_are_merged_into_what_is_exported(whole: Whole) -> None:
    import torch

    distilled, finetuned, again = (
        next(whole.folder.glob(f"phases/student-seed0-{name}-*/model")) for name in ("distil", "finetune", "again")
    )
    before, after, last = map(weights, (distilled, finetuned, again))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {name for name in before if "q_proj" in name or "v_proj" in name}
    assert {name for name in after if not after[name].equal(last[name])} == {
        name for name in after if "_proj" in name
    }, "qlora rounds every linear layer to 4 bits"
    learned = logits(distilled, finetuned.parent / "adapter")
    torch.testing.assert_close(logits(finetuned), learned, rtol=1e-4, atol=1e-4)
    assert not learned.allclose(logits(distilled), rtol=1e-2, atol=1e-2)
    student = kdtool.load(whole.folder).arms[0]
    assert logits(student.artifacts[0].path).equal(logits(student.path))


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


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 1
    path.write_bytes(content)


DAMAGE: tuple[Callable[[Path], object], ...] = (
    flip,
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    lambda path: path.unlink(),
)
POINTS = {
    "text": ("progress 1", "end 0"),
    "rows": ("end 0",),
    "students": ("end 0",),
    "signals": ("progress 6", "end 0", "rename 0"),
    "phases": ("step 5", "saved 0", "end 0", "rename 0"),
    "exports": ("end 0",),
    "scores": ("progress 2", "end 0"),
}
"""Points at which each stage is killed, in this order; the same run resumes after each kill. The first one on each push."""


@pytest.fixture(scope="module")
def file(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of every stage that leaves something to go on from: answers, shards, checkpoints, samples."""
    own = {**small_recipe["corpus"], "glob": "asyncio/*.py", "validation_share": 0.2, "test_share": 0.2}
    library = {**own, "forms": ["implement"], "train_files": 4}
    answers = {"use": "answers", "ask": "teacher", "form": "base", "corpus": "corpora.library", "limit": 6}
    recipe = {
        **without(small_recipe, "reporter", "corpus"),
        "control": False,
        "corpora": {"own": own, "library": library, "answers": {**answers, "max_tokens": 8, "keep_truncated": True}},
        "rows": {"use": "packed", "length": 32, "maximum_tokens": 256},
        "signals": {"use": "states", "rows_per_shard": 2, "batch": 2},
        "trainer": {**small_recipe["trainer"], "checkpoint_every": 2, "log_every": 1, "compile": "off"},
        "evaluators": {"line-completion": {"documents": 2, "places": 2, "split": "validation"}},
        "trackers": {"killer": {"use": f"{Path(__file__).with_name('killer.py')}:Killer"}},
    }
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def final(root: Path) -> dict[str, Any]:
    """Return the files of a run that do not tell the time, and its measurements."""
    timed = {"manifest.json", "history.jsonl", "trained.json", "report.html"}
    files = [path for path in root.glob("*/*/**/*") if path.is_file() and len(path.relative_to(root).parts) > 3]
    found: dict[str, Any] = {
        path.relative_to(root).as_posix(): _content(path)
        for path in files
        if path.name not in timed and path.suffix != ".lock"
    }
    return {**found, "measured": measured(root / "runs" / "small")}


def _content(path: Path) -> Any:
    """Return a file's bytes; of a journal its lines in any order, of what evaluators said all but the damage they mended."""
    content = path.read_bytes()
    if path.name == "messages.json":
        return [line for line in json.loads(content) if "damaged and was removed" not in line]
    return sorted(content.splitlines()) if path.suffix == ".jsonl" else content


@pytest.fixture(scope="module")
def undamaged(file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undamaged")
    kdtool.run(file, out=root / "runs", store=root / "store")
    return final(root)


@pytest.mark.parametrize("at_night", [False, pytest.param(True, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("stage", POINTS)
def test_damage_to_any_file_of_an_unfinished_folder_changes_nothing(
    file: Path, undamaged: dict[str, Any], tmp_path: Path, stage: str, at_night: bool
) -> None:
    """Real kills leave the folder; the first file of each kind is damaged alone, the others together.

    The run that goes on makes the damaged part again, or names the file with what to do.
    """
    seed = int(os.environ.get("DAMAGE_SEED") or (random.SystemRandom().randrange(2**32) if at_night else 0))
    print(f"again with this damage: DAMAGE_SEED={seed}")  # shown when the test fails
    killed = tmp_path / "killed"
    killed.mkdir()
    seen: set[str] = set()
    for point in POINTS[stage] if at_night else POINTS[stage][:1]:
        code, said = command(file, killed / "runs", killed / "store", tmp_path / "log", KILL_AT=f"{stage} {point}")
        assert code == -signal.SIGKILL, said
        for number, together in enumerate(choose_files(killed, stage, seen), start=seed):
            copy = tmp_path / "copy"
            shutil.copytree(killed, copy)
            for kind, path in enumerate(together, start=number):
                change = DAMAGE[kind % len(DAMAGE)] if (copy / path).stat().st_size else Path.unlink
                change(copy / path)
            which = f"{', '.join(map(str, together))} after kill at {point}, damage {number % len(DAMAGE)}"
            goes_on_to(file, copy, undamaged, which)
            shutil.rmtree(copy)


def choose_files(killed: Path, stage: str, seen: set[str]) -> list[list[Path]]:
    """Return all files of the stage's unfinished folders: one of each kind not `seen` alone, and the others together."""
    partials = [path for path in killed.glob("*/**/*.partial") if path.parent.name == stage]
    files = {found: partial for partial in partials for found in partial.rglob("*") if found.is_file()}
    assert files
    alone: list[Path] = []
    others: list[Path] = []
    for path in sorted(files, reverse=True):  # the last checkpoint is the one that counts
        kind = re.sub(r"[0-9a-f]{16}|\d+", "#", path.relative_to(files[path]).as_posix())
        (others if kind in seen else alone).append(path.relative_to(killed))
        seen.add(kind)
    return [*([path] for path in alone), *([others] if others else [])]


def goes_on_to(file: Path, root: Path, whole: dict[str, Any], which: str) -> None:
    """Run on; where a damaged file is named, do what the message says, and run again."""
    try:
        kdtool.run(file, out=root / "runs", store=root / "store")
    except kdtool.StorageError as error:
        remedy = re.search(r"[Dd]elete (?:the folder )?(\S+)", str(error))
        assert remedy, f"{which}: {error}"
        print(which, error)
        shutil.rmtree(remedy[1])
        kdtool.run(file, out=root / "runs", store=root / "store")
    found = final(root)
    assert found.keys() == whole.keys(), which
    assert [name for name, content in whole.items() if found[name] != content] == [], which

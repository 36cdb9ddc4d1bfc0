"""Executors: the same artefacts as without one, whatever happens to the processes that make them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._run.answers import lend_answers, lent_file, take_back_answers
from toy_recipe import TOY, Recipe, use

OWN = """
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import kdtool
import toy


class Process:
    def __init__(self, command, environment):
        self._process = subprocess.Popen(command, env=environment)

    def done(self):
        return self._process.poll() is not None

    def result(self):
        if self._process.wait():
            raise ChildProcessError(f"exit code {self._process.returncode}")

    def cancel(self):
        self._process.kill()


def note(task):
    nodes = json.loads((task.folder / "graph.json").read_text())
    roots = {"run": task.folder, "store": Path(nodes["store"])}
    inputs = [nodes["nodes"][name] for name in nodes["nodes"][task.name]["inputs"].values()]
    missing = [node["path"] for node in inputs if not (roots[node["in"]] / node["path"] / "manifest.json").is_file()]
    with open("submitted.jsonl", "a") as file:
        file.write(json.dumps([task.name, task.runs_models, task.memory, missing]) + "\\n")


class Pool(kdtool.Executor):  # makes all stages in one process, which opens the run once
    def __init__(self, config):
        super().__init__(config)
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def kdtool_submit(self, run, task):
        note(task)
        return self._pool.submit(task.make)

    def kdtool_close(self):
        self._pool.shutdown()


class Processes(kdtool.Executor):
    class Config(kdtool.Config):
        kills: int = 0  # attempts of each training that die, each one step later than the one before

    def kdtool_submit(self, run, task):
        note(task)
        number = int(task.attempt.rpartition("-")[2])
        dies = {"TOY_DIE_AT": f"{run.arm}:{number + 2}"} if number < self.config.kills else {}
        return Process(task.command(), {**os.environ, **dies})


class Failing(toy.Trainer):
    def kdtool_train(self, run, phase, student):
        if run.arm == "control":
            raise kdtool.BudgetError("limit of 3 dollars exceeded; raise the limit")
        return super().kdtool_train(run, phase, student)


class Broken(toy.Trainer):
    def kdtool_train(self, run, phase, student):
        return {}["nothing"]


class Counted(toy.Scholar):  # its process dies at a request if a file says so
    def kdtool_answer(self, requests):
        for request in requests:
            with open("asked", "a") as file:
                print(request.prompt, file=file)
            if os.path.exists("dies-at") and open("dies-at").read() == request.prompt:
                os.remove("dies-at")
                os.kill(os.getpid(), 9)
            yield from super().kdtool_answer([request])


class Keeping(kdtool.Filter):
    def kdtool_filter(self, run, examples):
        return [None] * len(examples)


class Asked(toy.Scholar):  # a service
    answer_cache_key = {"model": "scholar"}


class Slow(Asked):  # a request under way is paid for: when stopped, it waits for the answer
    def kdtool_answer(self, requests):
        Path("asked").touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(1)
            Path("answered").touch()
            raise


class Elsewhere(Pool):  # starts stages on a machine that does not see the run's folder
    def kdtool_submit(self, run, task):
        note(task)
        return self._pool.submit(replace(task, folder=Path("elsewhere")).make)


class Changing(Pool):  # submits after the text changed
    def kdtool_submit(self, run, task):
        with open("lines.txt", "a") as file:
            file.write("more\\n")
        return super().kdtool_submit(run, task)
"""


@pytest.fixture
def own(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The toy recipe without the control at equal time, whose steps depend on the clock, and an executor."""
    sources = f"import sys\nsys.path.insert(0, {str(TOY.parent)!r})\n{OWN}"
    (tmp_path / "own.py").write_text(sources, encoding="utf-8")
    return {**recipe, "control": "tokens", "executor": {"use": "./own.py:Pool"}}


def submitted() -> list[list[Any]]:
    return [json.loads(line) for line in Path("submitted.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(*roots: Path) -> dict[str, str]:
    """Return the digest of each file of all artefacts, by its path."""
    found: dict[str, str] = {}
    for root in roots:
        for manifest in root.glob("*/*/manifest.json"):
            files = json.loads(manifest.read_bytes())["files"]
            place = manifest.parent.relative_to(root).as_posix()
            found |= {f"{place}/{name}": entry["sha256"] for name, entry in files.items()}
    return found


def compared(own: Recipe, tmp_path: Path) -> tuple[kdtool.Results, kdtool.Results]:
    """Run the recipe with and without the executor, in two stores, and compare all artefacts."""
    by_one = kdtool.run({**own, "executor": False}, out="one", store="one-store")
    by_many = kdtool.run(own, out="many", store="many-store")
    expected = contents(tmp_path / "one" / "toy", tmp_path / "one-store")
    assert len(expected) > 15
    assert contents(tmp_path / "many" / "toy", tmp_path / "many-store") == expected
    return by_one, by_many


def test_artefacts_and_results_are_those_of_a_run_without_one_and_are_reused(own: Recipe, tmp_path: Path) -> None:
    own["reference"] = own["teacher"]
    by_one, by_many = compared(own, tmp_path)
    plain = [[(stage.name, stage.fingerprint, stage.reused) for stage in each.stages] for each in (by_one, by_many)]
    assert plain[0] == plain[1]
    assert "reference" in {subject.role for subject in by_many.subjects}
    assert [subject.name for subject in by_one.subjects] == [subject.name for subject in by_many.subjects]
    assert by_one.measurements != ()
    assert [one.value for one in by_one.measurements] == [one.value for one in by_many.measurements]
    first = submitted()
    names = [name for name, *_ in first]
    assert sorted(names) == sorted({stage.name for stage in by_many.stages}), "each once, and none in this process"
    assert [missing for *_, missing in first if missing] == [], "submitted before its inputs are complete"
    assert {name for name, runs_models, *_ in first if not runs_models} == {"text", "rows"}
    assert not (tmp_path / "many" / "toy" / "tasks").exists()
    again = kdtool.run(own, out="many", store="many-store")
    assert submitted() == first
    assert all(stage.reused for stage in again.stages)
    plan = kdtool.plan({**own, "executor": False}, out="many", store="many-store")
    assert {stage.action for stage in plan} == {"reuse"}, "an executor is in no fingerprint"


def test_stages_whose_processes_die_are_made_again_from_their_checkpoints(own: Recipe, tmp_path: Path) -> None:
    own |= {"seeds": [0], "executor": {"use": "./own.py:Processes", "kills": 2}}
    compared(own, tmp_path)
    trained = [name for name, *_ in submitted() if name.startswith("phases/")]
    assert {trained.count(name) for name in trained} == {3}
    events = [json.loads(line) for line in (tmp_path / "many" / "toy" / "events.jsonl").read_text().splitlines()]
    steps = [event["report"]["step"] for event in events if (event["event"], event["seed"]) == ("step_end", 0)]
    assert sorted(steps) == [1, 1, 2, 2, 3, 3, 4, 4], "a step was made twice"
    ends = [(event["stage"], event["label"]) for event in events if event["event"] == "stage_end"]
    assert len(ends) == len(set(ends))
    lost = [event["text"] for event in events if event["event"] == "message" and "was lost" in event["text"]]
    assert len(lost) == 4
    assert "exit code 9" in lost[0]


FAILURES: dict[str, tuple[Recipe, type[Exception], str, str]] = {
    "lost too often": (
        {"executor": {"use": "./own.py:Processes", "kills": 100}, "control": False, "train.steps": 20},
        kdtool.ServiceError, "was lost 5 times, the last time because ChildProcessError: exit code 9", "",
    ),
    "an error for the user": (
        {"trainer": {"use": "./own.py:Failing"}},
        kdtool.BudgetError, "limit of 3 dollars exceeded; raise the limit", "kdtool_train",
    ),
    "a bug in a plugin": (
        {"trainer": {"use": "./own.py:Broken"}},
        kdtool.KdtoolError, r"training of \w+, seed \d failed: trainer 'trainer' .*KeyError: 'nothing'", "kdtool_train",
    ),
    "another machine": (
        {"executor": {"use": "./own.py:Elsewhere"}},
        kdtool.StorageError, "a worker does not see elsewhere.*file system that all machines share", "",
    ),
    "other text": (
        {"executor": {"use": "./own.py:Changing"}, "corpus": use("Lines", file="lines.txt")},
        kdtool.UsageError, "a worker would not make the same text .*content of corpus Lines changed", "",
    ),
}  # fmt: skip
"""Settings, the error with its message, and words of its cause, which has the traceback of the process that failed."""


@pytest.mark.parametrize("failure", FAILURES)
def test_the_reason_of_a_failure_reaches_the_user(own: Recipe, tmp_path: Path, failure: str) -> None:
    settings, error, message, cause = FAILURES[failure]
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\nfour\n" * 9, encoding="utf-8")
    with pytest.raises(error, match=message) as raised:
        kdtool.run(own, {"seeds": [0], **settings})
    assert cause in str(raised.value.__cause__)
    assert error is not kdtool.StorageError or len(submitted()) == 1


def test_answers_that_a_teacher_computes_are_made_where_the_executor_decides_and_kept(
    own: Recipe, tmp_path: Path
) -> None:
    own |= {"teacher": {"use": "./own.py:Counted"}, "corpus": use("Sayings"), "seeds": [0]}
    own["executor"] = {"use": "./own.py:Processes"}
    kdtool.run({**own, "executor": False}, out="one", store="one-store")
    asked = Path("asked").read_text(encoding="utf-8").splitlines()
    Path("asked").unlink()
    Path("dies-at").write_text(asked[3], encoding="utf-8")
    borrowed = lent_file(tmp_path / "many-store", "0123456789abcdef")
    lend_answers(tmp_path / "many-store" / "answers.sqlite", borrowed)
    results = kdtool.run(own, out="many", store="many-store")
    assert contents(tmp_path / "many-store") == contents(tmp_path / "one-store")
    tasks = [name for name, *_ in submitted()]
    assert {*tasks} == {stage.name for stage in results.stages}
    assert [runs_models for name, runs_models, *_ in submitted() if name == "text"] == [True, True]
    again = Path("asked").read_text(encoding="utf-8").splitlines()
    assert again == [*asked[:4], *asked[3:]], "only the answer that was being computed is computed again"
    assert [*(tmp_path / "many-store" / "answers").iterdir()] == [borrowed], "what another run has borrowed stays"
    own["filter"] = {"use": "./own.py:Keeping"}
    kdtool.run(own, out="other", store="many-store")
    assert Path("asked").read_text(encoding="utf-8").splitlines() == again, "stored for other runs, too"
    assert [name for name, *_ in submitted()].count("text") == 3


def answers_in(file: Path) -> list[tuple[str, ...]]:
    with closing(kdtool.open_answers(file)) as database:
        return database.execute("SELECT * FROM answer ORDER BY key").fetchall()


def test_answers_of_a_run_that_ended_early_are_kept_except_while_its_process_still_runs(tmp_path: Path) -> None:
    answers, stage = tmp_path / "answers.sqlite", "0123456789abcdef"
    lent, row = lent_file(tmp_path, stage), ("key", "answer", "digest")
    lend_answers(answers, lent)
    with closing(kdtool.open_answers(lent)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("INSERT INTO answer VALUES (?, ?, ?)", row)
        take_back_answers(answers, [lent])
        assert lent.exists()
        lend_answers(answers, lent)
        assert database.execute("SELECT * FROM answer").fetchall() == [row]
    take_back_answers(answers, [lent])
    assert not lent.exists()
    assert answers_in(answers) == [row]
    lend_answers(answers, lent)
    assert answers_in(lent) == [row]
    with closing(kdtool.open_answers(lent)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_an_answer_taken_back_replaces_a_damaged_one_and_no_other(tmp_path: Path) -> None:
    answers, lent = tmp_path / "answers.sqlite", lent_file(tmp_path, "0123456789abcdef")

    def row(key: str, said: str) -> tuple[str, str, str]:
        text = json.dumps(vars(kdtool.TextAnswer("", said, "stop", 1, 1)))
        return key, text, hashlib.sha256(text.encode()).hexdigest()

    with closing(kdtool.open_answers(answers)) as database:
        database.executemany("INSERT INTO answer VALUES (?, ?, ?)", [row("a", "x"), ("b", "y", row("b", "z")[2])])
    lend_answers(answers, lent)
    with closing(kdtool.open_answers(lent)) as database:
        database.executemany("REPLACE INTO answer VALUES (?, ?, ?)", [row("a", "other"), row("b", "z")])
    take_back_answers(answers, [lent])
    assert answers_in(answers) == [row("a", "x"), row("b", "z")]


def test_stages_that_ask_services_stay_on_this_machine(own: Recipe) -> None:
    own["teacher"] = {"use": "./own.py:Asked"}
    own["corpus"] = use("Sayings")
    results = kdtool.run(own)
    here = {stage.name for stage in results.stages} - {name for name, *_ in submitted()}
    assert here == {"text", "scores/nats-teacher"}
    assert len({stage.name for stage in results.stages}) == len(results.stages)


@pytest.mark.skipif(os.name == "nt", reason="processes are stopped by signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_service_can_wait_for_a_request_that_is_under_way(own: Recipe, number: signal.Signals) -> None:
    own |= {"teacher": {"use": "./own.py:Slow"}, "corpus": use("Sayings")}
    Path("recipe.json").write_text(json.dumps(own), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "kdtool", "run", "recipe.json"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not Path("asked").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    assert process.wait(30) == 130
    assert Path("answered").exists()


def test_a_remote_store_and_processes_of_torchrun_are_refused_before_anything_is_made(
    own: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDTOOL_STORE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(kdtool.UsageError, match=r"--store s3://bucket/x is a remote store, .* or leave out `executor`"):
        kdtool.run(own, store="s3://bucket/x")
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(kdtool.UsageError, match="leave out --gpus and torchrun, or `executor`"):
        kdtool.run(own)
    assert not (tmp_path / "submitted.jsonl").exists()


def test_a_task_says_how_it_is_started(tmp_path: Path) -> None:
    task = kdtool.Task("text", "text", tmp_path, "a-0")
    assert task.command()[1:] == ["-P", "-m", "kdtool._run.worker", str(tmp_path), "text", "a-0"]
    assert task.command(4)[1:5] == ["-P", "-m", "torch.distributed.run", "--standalone"]
    assert task.command(4)[5:] == ["--nproc-per-node", "4", "--no-python", *task.command()]
    several = task.command(4, machines=2, machine=1, main="[fd00::1]:2900")
    assert several[4:12] == ["--nnodes", "2", "--node-rank", "1", "--master-addr", "fd00::1", "--master-port", "2900"]
    assert several[12:] == task.command(4)[5:]
    assert Path(task.command()[0]).exists()

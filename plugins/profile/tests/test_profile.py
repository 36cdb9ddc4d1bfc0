"""Calls are added up right, and the files hold them: own times, peaks, iterators, threads, resumed runs, hostile names."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from time import process_time
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import kdtool
import pytest
from kdtool_profile import Profile, ProfileLosses
from kdtool_profile._files import write_files
from kdtool_profile._memory import peak_gpu_memory, peak_memory
from kdtool_profile._page import page
from kdtool_profile._recorder import Recorder
from kdtool_profile._speedscope import speedscope
from kdtool_profile._table import Row, bytes_in_words, seconds_in_words, summary, table
from kdtool_profile._tracker import COMPILED
from kdtool_testing import TrackerConformance, make_run

TOYS = Path(__file__).resolve().parents[3] / "core" / "tests"
HOSTILE = "<script>alert(1)</script>\"'&\u2028\ud800"
FORMAT = {  # speedscope's documented format, as far as it has to do with samples
    "type": "object",
    "required": ["$schema", "shared", "profiles"],
    "properties": {
        "$schema": {"const": "https://www.speedscope.app/file-format-schema.json"},
        "name": {"type": "string"},
        "exporter": {"type": "string"},
        "activeProfileIndex": {"type": "integer"},
        "shared": {
            "type": "object",
            "required": ["frames"],
            "properties": {
                "frames": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "file": {"type": "string"}},
                    },
                }
            },
        },
        "profiles": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["type", "name", "unit", "startValue", "endValue", "samples", "weights"],
                "properties": {
                    "type": {"const": "sampled"},
                    "name": {"type": "string"},
                    "unit": {"enum": ["none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"]},
                    "startValue": {"type": "number"},
                    "endValue": {"type": "number"},
                    "samples": {
                        "type": "array",
                        "items": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    },
                    "weights": {"type": "array", "items": {"type": "number", "minimum": 0}},
                },
            },
        },
    },
}


class TestProfile(TrackerConformance):
    component = Profile
    entry_point = "profile"


class TestProfileLosses(TrackerConformance):
    component = ProfileLosses
    entry_point = "profile-losses"


class Machine:
    """A clock and a memory that tests move."""

    def __init__(self) -> None:
        self.now, self.memory, self.gpu = 0.0, 100, 0
        self.recorder = Recorder(lambda: self.now, (lambda: self.memory, lambda: self.gpu))

    def call(self, component: str, hook: str, *inside: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            self.recorder.enter(component, hook)
            for step in inside:
                step()
            self.recorder.leave()

        return call

    def work(self, seconds: float, memory: int = 0, gpu: int = 0) -> Callable[[], None]:
        def work() -> None:
            self.now, self.memory, self.gpu = self.now + seconds, self.memory + memory, self.gpu + gpu

        return work

    def rows(self) -> dict[str, Row]:
        self.recorder.finish()
        return {row.label: row for row in table(self.recorder)}


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_own_time_leaves_out_the_hooks_that_were_called(machine: Machine) -> None:
    signal = machine.call("teacher", "kdtool_signal", machine.work(2))
    train = machine.call("trainer", "kdtool_train", machine.work(1), signal, signal, machine.work(1))
    for step in (machine.work(0.5), train, signal):
        step()
    rows = machine.rows()
    found = {label: (row.calls, row.seconds, row.own_seconds) for label, row in rows.items()}
    assert found == {
        "teacher.kdtool_signal": (3, 6.0, 6.0),
        "trainer.kdtool_train": (1, 6.0, 2.0),
        "kdtool itself": (0, 8.5, 0.5),
    }
    assert list(rows) == ["teacher.kdtool_signal", "trainer.kdtool_train", "kdtool itself"]


def test_a_hook_that_calls_itself_counts_its_time_once(machine: Machine) -> None:
    inner = machine.call("a", "kdtool_check", machine.work(1))
    machine.call("a", "kdtool_check", machine.work(2), machine.call("b", "kdtool_check", inner))()
    row = machine.rows()["a.kdtool_check"]
    assert (row.calls, row.seconds, row.own_seconds) == (2, 3.0, 3.0)


def test_memory_counts_for_the_hook_that_raised_the_peak(machine: Machine) -> None:
    signal = machine.call("teacher", "kdtool_signal", machine.work(1, memory=30, gpu=7))
    machine.call("trainer", "kdtool_train", machine.work(1, memory=10), signal, machine.work(1, gpu=5))()
    rows = machine.rows()
    assert {label: (row.memory, row.gpu_memory) for label, row in rows.items()} == {
        "teacher.kdtool_signal": (30, 7),
        "trainer.kdtool_train": (10, 5),
        "kdtool itself": (0, 0),
    }


def test_a_peak_that_another_part_of_the_process_resets_counts_nothing(machine: Machine) -> None:
    machine.work(0, gpu=80)()
    reset = machine.call("student", "kdtool_open", machine.work(1, gpu=-50))
    machine.call("trainer", "kdtool_train", reset)()
    assert {row.gpu_memory for row in machine.rows().values()} == {
        0,
        30,
    }  # 80 of kdtool itself, 50 of which are unknown


def test_time_between_items_counts_for_the_consumer(machine: Machine) -> None:
    def make() -> Iterator[int]:
        for number in range(3):
            machine.work(1)()
            yield number

    recorder, found = machine.recorder, []
    recorder.enter("corpus", "kdtool_examples")
    recorder.leave()
    recorder.enter("rows", "kdtool_rows")
    for item in recorder.pass_on(make(), "corpus", "kdtool_examples"):
        machine.work(10)()
        found.append(item)
    recorder.leave()
    rows = machine.rows()
    assert found == [0, 1, 2]
    assert (rows["corpus.kdtool_examples"].calls, rows["corpus.kdtool_examples"].seconds) == (1, 3.0)
    assert (rows["rows.kdtool_rows"].seconds, rows["rows.kdtool_rows"].own_seconds) == (33.0, 30.0)


def test_an_answer_that_is_left_early_is_closed(machine: Machine) -> None:
    closed = []

    def make() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    answer = make()
    items = machine.recorder.pass_on(answer, "corpus", "kdtool_examples")
    assert next(items) == 1
    items.close()
    assert closed == [True]


def test_other_threads_do_not_count_for_the_run(machine: Machine) -> None:
    thread = Thread(
        target=machine.call("trackers.wandb", "kdtool_step_end", machine.work(5, memory=9)), name="of wandb"
    )
    machine.call("trainer", "kdtool_train", machine.work(1))()
    thread.start()
    thread.join()
    rows = machine.rows()
    assert [row.background for row in rows.values()] == [False, False, True]
    assert (rows["trackers.wandb.kdtool_step_end"].seconds, rows["trackers.wandb.kdtool_step_end"].memory) == (5.0, 0)
    assert "trackers.wandb" not in summary([*rows.values()])
    assert [one["name"] for one in speedscope(machine.recorder, "run")["profiles"]] == ["kdtool", "of wandb"]


def test_the_flame_graph_is_in_the_format_of_speedscope(machine: Machine) -> None:
    signal = machine.call("teacher", "kdtool_signal", machine.work(2))
    machine.call("trainer", "kdtool_train", machine.work(1), signal)()
    machine.recorder.finish()
    found = json.loads(json.dumps(speedscope(machine.recorder, "run")))
    jsonschema.validate(found, FORMAT)
    names = [frame["name"] for frame in found["shared"]["frames"]]
    (profile,) = found["profiles"]
    stacks = {tuple(names[index] for index in sample) for sample in profile["samples"]}
    train = ("kdtool", "trainer.kdtool_train")
    assert stacks == {("kdtool",), train, (*train, "teacher.kdtool_signal")}
    assert profile["weights"] == [0, 1, 2]
    assert profile["endValue"] == sum(profile["weights"]) == 3


def test_hostile_names_are_text(machine: Machine, tmp_path: Path) -> None:
    machine.call(HOSTILE, "kdtool_check", machine.work(1))()
    machine.recorder.enter("", HOSTILE)
    machine.recorder.finish()
    stages = [{"name": HOSTILE, "title": HOSTILE, "seconds": 1.0, "reused": True}]
    write_files(tmp_path, HOSTILE, HOSTILE, machine.recorder, stages)
    written = (tmp_path / "profile.html").read_text(encoding="utf-8")
    assert "<script" not in written
    assert written.count("&lt;script&gt;") >= 7
    svg = ET.fromstring(written[written.index("<svg") : written.rindex("</svg>") + len("</svg>")])  # noqa: S314 - ours
    assert {element.tag for element in svg.iter()} <= {"svg", "title", "rect", "text"}
    assert json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))["run"] == HOSTILE
    assert json.loads((tmp_path / "speedscope.json").read_text(encoding="utf-8"))["name"] == HOSTILE


def test_the_page_loads_nothing(machine: Machine) -> None:
    machine.call("a", "kdtool_check", machine.work(1))()
    machine.recorder.finish()
    written = page(machine.recorder, "run", "done", [])
    assert not {word for word in ("src=", "href=", "url(", "@import", "<link", "http") if word in written}


def test_a_failed_write_leaves_the_earlier_file(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profile.json").write_text("earlier", encoding="utf-8")

    def fail(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError("the disk is full")

    machine.recorder.finish()
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="full"):
        write_files(tmp_path, "run", "done", machine.recorder, [])
    assert (tmp_path / "profile.json").read_text(encoding="utf-8") == "earlier"


def test_amounts_have_units_that_fit() -> None:
    assert [seconds_in_words(seconds) for seconds in (0.0, 4e-6, 9.9999e-4, 0.0123, 0.25, 1.0, 99.94, 4321.0)] == [
        "0 µs", "4 µs", "1 ms", "12.3 ms", "250 ms", "1 s", "99.9 s", "4,321 s",
    ]  # fmt: skip
    assert [bytes_in_words(count) for count in (0, 12, 4096, 2_500_000, 3 * 10**9)] == [
        "", "12 B", "4.1 kB", "2.5 MB", "3 GB",
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="not measured there")
def test_the_peak_grows_by_what_is_allocated() -> None:
    program = (
        "from kdtool_profile._memory import peak_memory as peak; before = peak(); kept = b'x' * 200_000_000; "
        "print(before, peak())"
    )
    before, after = map(int, subprocess.check_output([sys.executable, "-c", program], text=True).split())
    assert 195e6 < after - before < 210e6
    assert peak_memory() > 10**7


def test_a_gpu_is_looked_at_only_where_pytorch_uses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.cuda", raising=False)
    assert peak_gpu_memory() == 0
    assert "torch.cuda" not in sys.modules
    for initialized, expected in ((False, 0), (True, 5)):
        cuda = SimpleNamespace(is_initialized=lambda value=initialized: value, max_memory_allocated=lambda: 5)
        monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
        assert peak_gpu_memory() == expected
    monkeypatch.setitem(sys.modules, "torch.cuda", SimpleNamespace())  # half imported
    assert peak_gpu_memory() == 0


class Loss(kdtool.TokenLoss):
    """A loss."""

    def kdtool_token_loss(self, chunk: Any) -> Any:
        return chunk


def test_losses_are_called_without_pluggy_unless_they_are_measured() -> None:
    loss = Loss(Loss.Config())
    for tracker, plain in ((Profile, True), (ProfileLosses, False)):
        run = make_run(Path(), {"loss": loss, "profile": tracker(tracker.Config())})
        bound = run.bound("kdtool_token_loss")["loss"]
        assert (getattr(bound, "__wrapped__", None) == loss.kdtool_token_loss) is plain
        assert bound(3) == 3
    assert all(hasattr(Loss, hook) or hook == "kdtool_token_weight" for hook in COMPILED)


class Breaks(kdtool.TokenLoss):
    """A loss that fails."""

    def kdtool_token_loss(self, chunk: Any) -> Any:
        raise ValueError("too late")


def test_an_error_ends_the_call() -> None:
    profile = ProfileLosses(ProfileLosses.Config())
    call = make_run(Path(), {"loss": Breaks(Breaks.Config()), "profile": profile}).bound("kdtool_token_loss")["loss"]
    for _ in range(2):
        with pytest.raises(ValueError, match="too late"):
            call(1)
    (row,) = [row for row in table(profile._recorder) if row.component]
    assert (row.calls, profile._recorder.home.children["loss", "kdtool_token_loss"].children) == (2, {})


def test_a_wrapped_hook_costs_microseconds(tmp_path: Path) -> None:
    seconds = []
    for trackers in ({}, {"profile": ProfileLosses(ProfileLosses.Config())}):
        call = make_run(tmp_path, {"loss": Loss(Loss.Config()), **trackers}).bound("kdtool_token_loss")["loss"]
        rounds = []
        for _ in range(5):
            start = process_time()
            for _ in range(1000):
                call(1)
            rounds.append((process_time() - start) / 1000)
        seconds.append(min(rounds))
    assert seconds[1] - seconds[0] < 200e-6  # some 10 µs, on a machine with nothing else to do


needs_toys = pytest.mark.skipif(not TOYS.is_dir(), reason="the core's toy recipe is not here")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The core's toy recipe, with the profile."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("toy_recipe", TOYS / "toy_recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe: dict[str, Any] = module.toy_recipe()
    return {**recipe, "seeds": [0], "control": {"match": "tokens"}, "trackers": {"profile": {}}}


def read(results_of: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results_of / "profile" / "profile.json").read_text(encoding="utf-8"))
    return found


@needs_toys
def test_a_run_is_measured_and_no_result_changes(toy: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    plain = kdtool.run({**toy, "trackers": []}, out="plain", store="plain-store")
    profiled = kdtool.run(toy, out="profiled", store="profiled-store")
    assert "profile/profile.html" in capsys.readouterr().err
    assert files_of(plain.folder) == files_of(profiled.folder)
    found = read(profiled.folder)
    own = [hook["own_seconds"] for hook in found["hooks"] if not hook["background"]]
    assert sum(own) == pytest.approx(found["seconds"])
    assert profiled.seconds < found["seconds"]
    graph = json.loads((profiled.folder / "profile" / "speedscope.json").read_text(encoding="utf-8"))
    names = [frame["name"] for frame in graph["shared"]["frames"]]
    stacks = {tuple(names[index] for index in sample) for sample in graph["profiles"][0]["samples"]}
    assert ("kdtool", "training of student, seed 0", "trainer.kdtool_train") in stacks
    hooks = {(hook["component"], hook["hook"]): hook["calls"] for hook in found["hooks"]}
    assert hooks["trainer", "kdtool_train"] == 2
    assert hooks["corpus", "kdtool_examples"] == 1
    assert hooks["reporter", "kdtool_report"] == 1


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what the run made: models, scores and exports."""
    names = ("counts.json", "scores.jsonl", "nats.jsonl", "model.json")
    found = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    kept = {name: file.read_bytes() for name, file in found.items() if Path(name).name in names}
    assert kept
    return kept


@needs_toys
def test_turning_it_on_remakes_nothing_and_a_resumed_run_keeps_the_better_profile(toy: dict[str, Any]) -> None:
    kdtool.run({**toy, "trackers": []}, store="store")
    again = kdtool.run(toy, store="store")
    assert {stage.reused for stage in again.stages} == {True}
    assert {stage["reused"] for stage in read(again.folder)["stages"]} == {True}
    first = kdtool.run({**toy, "name": "other"}, store="other-store")
    before = read(first.folder)
    assert {stage["reused"] for stage in before["stages"]} == {False}
    kdtool.run({**toy, "name": "other"}, store="other-store")
    assert read(first.folder) == before
    toy["evaluators"]["more"] = toy["evaluators"]["nats"]
    kdtool.run({**toy, "name": "other"}, store="other-store")
    resumed = read(first.folder)
    assert {stage["reused"] for stage in resumed["stages"]} == {True, False}
    assert "kdtool_train" not in {hook["hook"] for hook in resumed["hooks"]}
    page_of_it = (first.folder / "profile" / "profile.html").read_text(encoding="utf-8")
    assert "training of student" in page_of_it.partition("were not made again")[2].partition("</p>")[0]


FAILS = """
import kdtool


class Fails(kdtool.Evaluator):
    \"\"\"An evaluator that fails late.\"\"\"

    def kdtool_evaluate(self, run, subjects):
        yield from ()
        raise ValueError("late")
"""


@needs_toys
def test_an_error_still_names_its_component_and_the_profile_is_written(toy: dict[str, Any]) -> None:
    Path("fails.py").write_text(FAILS, encoding="utf-8")
    toy["evaluators"] = {"fails": {"use": "./fails.py:Fails"}}
    with pytest.raises(ValueError, match="late") as raised:
        kdtool.run(toy)
    (note,) = raised.value.__notes__
    assert note.startswith("raised by evaluator 'evaluators.fails'")
    found = read(Path("runs/toy"))
    assert found["status"] == "failed"
    assert ("evaluators.fails", "kdtool_evaluate") in {(hook["component"], hook["hook"]) for hook in found["hooks"]}

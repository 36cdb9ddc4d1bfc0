"""Real processes on tiny models: what is measured is of the right model and size, and a broken one is explained."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
import torch
import transformers
from kdtool_evaluator_efficiency import Efficiency
from kdtool_evaluator_efficiency._evaluator import _representatives
from kdtool_evaluator_efficiency._measurements import Ready, beside_other_work, file_size
from kdtool_evaluator_efficiency._timed import own_seconds
from kdtool_evaluator_efficiency._turns import OtherWork
from kdtool_testing import EvaluatorConformance, make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersModel, TransformersRuntime


class TestEfficiency(EvaluatorConformance):
    component = Efficiency
    entry_point = "efficiency"
    settings: ClassVar = {"turns": 1, "prompt": 16, "generated": 2}
    repeatable = False


class Opener(kdtool.Exporter):
    """Opens teachers."""

    def __init__(self, runtime: kdtool.Runtime) -> None:
        super().__init__(self.Config())
        self.runtime = runtime

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return self.runtime if subject.role == "teacher" else None


def make_model(layers: int) -> TransformersModel:
    return tiny_model(layers=layers, hidden_size=64, intermediate_size=128, max_position_embeddings=64)


def evaluate(run: kdtool.RunInfo, *subjects: kdtool.Subject) -> dict[tuple[str, str], Any]:
    evaluator = Efficiency(Efficiency.Config(turns=3, prompt=100, generated=4))
    return {(found.name, found.subject): found for found in evaluator.kdtool_evaluate(run, subjects)}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other tell nothing about models on a machine that is busy otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def children() -> set[str]:
    """Processes that this one started, where the system tells (Linux)."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return set(path.read_text(encoding="utf-8").split()) if path.exists() else set()


@pytest.mark.slow
def test_teacher_and_student_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    teacher, student = make_model(24), make_model(2)
    student.save(tmp_path / "student")
    gguf = tmp_path / "q4.gguf"
    gguf.write_bytes(bytes(123))
    heard: list[str] = []
    run = make_run(tmp_path, {"any": Opener(TransformersRuntime(teacher))}, say=heard.append)
    before = children()
    found = evaluate(
        run,
        kdtool.Subject("teacher", "teacher"),
        kdtool.Subject("student-seed1", "student", tmp_path / "gone", 1),
        kdtool.Subject("student-seed0", "student", tmp_path / "student", 0),
        kdtool.Subject("control-seed0", "control", tmp_path / "gone", 0),
        kdtool.Subject("q4-seed0", "artifact", gguf, 0),
    )
    assert {subject for _, subject in found} == {"teacher", "student-seed0", "q4-seed0"}
    for model, name in ((teacher, "teacher"), (student, "student-seed0")):
        assert found["parameters", name].value == model.facts.parameters
        assert found["file-size", name].value == pytest.approx(4 * model.facts.parameters, rel=0.2)
        first = found["time-to-first-token", name]
        assert first.low <= first.value <= first.high
        assert first.n == 3
        assert first.settings["prompt"] == "32 tokens"
        assert 5e7 < found["peak-memory", name].value < 5e9
        resident = found["resident-memory", name]
        assert 5e7 < resident.value < 5e9
        assert resident.settings["context"] == "64 tokens", "the model's"
        assert resident.settings["read"].startswith("64 tokens, ")
        assert resident.settings["program"].startswith("transformers, ")
    assert found["decode-speed", "student-seed0"].value > found["decode-speed", "teacher"].value  # 2 layers against 24
    assert found["file-size", "q4-seed0"].value == 123
    assert children() <= before
    assert heard == [
        "efficiency: of q4-seed0 only the size is measured, no component opens it; its component must implement kdtool_open"
    ]
    assert found["prefill-speed", "teacher"].value == pytest.approx(32 / found["time-to-first-token", "teacher"].value)


def test_generation_ends_with_the_context_and_that_is_said(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=257, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "student")
    heard: list[str] = []
    run = make_run(tmp_path, say=heard.append)
    evaluator = Efficiency(Efficiency.Config(turns=1, prompt=100, generated=32, seconds=60))
    subject = kdtool.Subject("student", "student", tmp_path / "student", 0)
    found = {one.name: one.settings for one in evaluator.kdtool_evaluate(run, [subject])}
    assert found["decode-speed"]["prompt"] == "8 tokens"
    assert found["decode-speed"]["generated"].startswith("8 tokens one at a time")
    assert "efficiency: student generates 8 tokens, and not 32: its context ends there" in heard


@pytest.mark.slow
def test_a_model_that_does_not_load_is_explained(tmp_path: Path) -> None:
    make_model(1).save(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    subject = kdtool.Subject("student", "student", tmp_path / "broken", 0)
    with pytest.raises(
        kdtool.PluginError, match=r"the process that measures student ended: exit status 1, .*[Ss]afetensor"
    ):
        evaluate(make_run(tmp_path), subject)


def test_one_seed_stands_for_all_and_an_exported_folder_for_the_student(tmp_path: Path) -> None:
    names = [
        ("teacher", "teacher", None),
        ("student-seed10", "student", 10),
        ("student-seed1", "student", 1),
        ("control-seed1", "control", 1),
        ("q4-seed1", "artifact", 1),
        ("q4-seed10", "artifact", 10),
        ("q2-seed1", "artifact", 1),
    ]
    subjects = [kdtool.Subject(name, role, None, seed) for name, role, seed in names]  # type: ignore[arg-type]
    chosen = [subject.name for subject in _representatives(subjects)]
    assert chosen == ["teacher", "student-seed1", "q4-seed1", "q2-seed1"]
    folder = kdtool.Subject("student-seed1-safetensors", "artifact", tmp_path, 1)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.onnx").write_bytes(b"")
    chosen = [subject.name for subject in _representatives([*subjects[:4], folder])]
    assert "student-seed1" in chosen, "a folder in a foreign format is no stand-in"
    (tmp_path / "model.safetensors").write_bytes(b"")
    chosen = [subject.name for subject in _representatives([*subjects[:4], folder])]
    assert chosen == ["teacher", "student-seed1-safetensors"]


@pytest.mark.parametrize(("others", "marked"), [(None, False), (0.0, False), (100.0, True)])
def test_what_was_measured_beside_other_work_says_so(
    others: float | None, marked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OtherWork, "cores", lambda _: others)
    said: list[str] = []
    run = replace(make_run(tmp_path), say=said.append)
    subject = kdtool.Subject("student", "student")
    timed: Any = None
    prepared = {subject: Ready(timed, {"machine": "cpu"}, "")}
    (ready,) = beside_other_work(run, prepared, OtherWork(own_seconds)).values()
    assert ("busy" in ready.settings) == marked
    assert [line.rpartition(": ")[2] for line in said] == [f"kdtool eval {run.name} --with efficiency"] * marked
    assert ready.settings["machine"] == "cpu"


def test_work_of_others_is_seen_and_that_of_measured_processes_is_not_counted() -> None:
    if not Path("/proc/stat").exists():
        pytest.skip("only Linux counts it")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        work, mine, begun = OtherWork(lambda: 0.0), OtherWork(lambda: 100 * time.perf_counter()), time.perf_counter()
        while time.perf_counter() < begun + 1:
            pass
        others = work.cores()
        process.kill()
    assert others is not None
    assert others > 0.1
    assert mine.cores() == 0


def test_a_machine_is_busy_if_others_leave_too_few_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for others, threads, disturbing in ((None, 8, 0), (0.1, 8, 0), (1.0, 8, 1.0), (3.0, 4, 0), (5.0, 4, 5.0)):
        monkeypatch.setattr(OtherWork, "cores", lambda _, others=others: others)
        assert OtherWork(own_seconds).disturbance(threads) == disturbing


def test_the_size_of_a_graph_counts_the_weights_beside_it(tmp_path: Path) -> None:
    for name, size in (("model.onnx", 10), ("model.onnx.data", 500), ("tokenizer.json", 7)):
        (tmp_path / name).write_bytes(bytes(size))
    assert file_size("graph", tmp_path).value == 510

"""Models that only answer are timed by their answers alone, against a clock that answering moves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import kdtool
import psutil
import pytest
import torch
from kdtool_evaluator_efficiency import Efficiency, _timed
from kdtool_evaluator_efficiency._timed import Answering
from kdtool_evaluator_efficiency._turns import Amount, UnmeasurableError
from kdtool_testing import OneRuntime, make_run

AMOUNT = Amount(prompt=100, generated=32, seconds=2.0)


class Machine(kdtool.Runtime):
    """Reads a token a character in a millisecond, writes one in 10, and is 5 ms on the way."""

    def __init__(self, *abilities: kdtool.Ability, context: int = 100_000, ends: int = 100_000) -> None:
        self.abilities = frozenset(abilities)
        self.clock = 0.0
        self.context = context
        self.ends = ends
        self.asked: list[kdtool.Request] = []
        self.closed = False

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for request in requests:
            self.asked.append(request)
            read = len(request.prompt or request.turns[0][1])
            if read > self.context:
                raise kdtool.UsageError("it is too long")
            written = min(request.max_tokens, self.ends)
            self.clock += 0.005 + 0.001 * read + 0.01 * written
            yield kdtool.TextAnswer(request.id, "x" * written, "length", read, written)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine("continue", "score")
    monkeypatch.setattr(_timed, "perf_counter", lambda: made.clock)
    return made


def timed(machine: Machine, amount: Amount = AMOUNT) -> Answering:
    return Answering(machine, amount)


def test_reading_and_writing_are_told_apart(machine: Machine) -> None:
    turn = timed(machine).turn()
    assert turn.prompt == pytest.approx(100, abs=20)  # whole lines
    assert turn.first_token_seconds == pytest.approx(0.005 + 0.001 * turn.prompt + 0.01)
    assert turn.tokens_per_second == pytest.approx(100)
    assert machine.asked[-1].max_tokens == 32
    beginnings = [request.prompt[:16] for request in machine.asked]
    assert len(set(beginnings)) == len(beginnings), "nothing that was read before helps"


def test_answers_have_as_many_tokens_as_the_time_allows(machine: Machine) -> None:
    timed(machine, Amount(100, 1000, 1.0)).turn()
    assert 50 <= max(request.max_tokens for request in machine.asked) <= 100
    timed(machine, Amount(100, 40, 1.0)).turn()
    assert machine.asked[-1].max_tokens == 40


def test_a_prompt_that_does_not_fit_is_shortened(machine: Machine) -> None:
    machine.context = 60
    turn = timed(machine).turn()
    assert 20 < turn.prompt <= 60
    assert turn.tokens_per_second == pytest.approx(100)


def test_answers_that_end_by_themselves_tell_no_speed(machine: Machine) -> None:
    machine.ends = 15
    assert timed(machine).turn().tokens_per_second is None
    machine.ends = 17
    assert timed(machine).turn().tokens_per_second == pytest.approx(100)


def test_what_only_converses_is_asked_as_a_user_asks(machine: Machine) -> None:
    machine.abilities = frozenset({"converse"})
    assert timed(machine).turn().tokens_per_second == pytest.approx(100)
    assert all(request.prompt == "" and request.turns[0][0] == "user" for request in machine.asked)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"abilities": frozenset({"score"})}, "the model does not answer prompts"),
        ({"context": 3}, "the model refuses every prompt: it is too long"),
    ],
)
def test_what_cannot_be_timed_says_why(machine: Machine, change: dict[str, object], reason: str) -> None:
    vars(machine).update(change)
    with pytest.raises(UnmeasurableError, match=reason):
        timed(machine)


def test_a_server_that_counts_no_tokens_is_not_timed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machine, "answer", lambda requests: (kdtool.TextAnswer(one.id, "x", "length", 0, 0) for one in requests)
    )
    with pytest.raises(UnmeasurableError, match="does not report how many tokens"):
        timed(machine)


def measured(
    folder: Path, machine: Machine, subject: kdtool.Subject
) -> tuple[dict[str, kdtool.Measurement], list[str]]:
    heard: list[str] = []
    run = make_run(folder, {"exporters.own": OneRuntime(machine)}, say=heard.append)
    evaluator = Efficiency(Efficiency.Config(turns=3, prompt=100, generated=32))
    return {found.name: found for found in evaluator.kdtool_evaluate(run, [subject])}, heard


_READS = """
import sys, time
held = bytearray(60_000_000)
held[::4096] = b"x" * len(held[::4096])
for line in sys.stdin:
    start = time.process_time()
    while time.process_time() - start < 0.05:
        pass
    print("read", flush=True)
"""


class OtherProcess(Machine):
    """Has a separate process read each prompt."""

    def __init__(self, context: int) -> None:
        super().__init__("continue", context=context)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _READS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for answer in super().answer(requests):
            self.process.stdin.write("\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
            self.process.stdout.readline()  # type: ignore[union-attr]
            yield answer

    def close(self) -> None:
        self.process.communicate()


@pytest.mark.parametrize(("context", "least"), [(100_000, 1900), (1000, 900)])
def test_memory_is_that_of_the_process_that_reads_once_the_context_is_full(context: int, least: int) -> None:
    idle = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    machine = OtherProcess(context)
    try:
        found = timed(machine).read(2000)
        assert least <= found.tokens <= min(context, 2000)
        assert found.context == (2000 if context > 2000 else found.tokens)
        assert found.size == pytest.approx(psutil.Process(machine.process.pid).memory_info().rss, rel=0.02)
        assert found.size > 60_000_000
    finally:
        machine.close()
        idle.communicate(b"\n")


@pytest.fixture
def file(tmp_path: Path) -> kdtool.Subject:
    (tmp_path / "model.own").write_bytes(bytes(123))
    return kdtool.Subject("student-own", "artifact", tmp_path / "model.own", 0)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timed, "pick_device", lambda: torch.device("cpu"))


@pytest.mark.usefixtures("on_cpu")
def test_a_file_of_any_format_is_measured_through_who_opens_it(
    tmp_path: Path, machine: Machine, file: kdtool.Subject
) -> None:
    found, heard = measured(tmp_path, machine, file)
    assert list(found) == ["file-size", "time-to-first-token", "prefill-speed", "decode-speed"]
    assert found["file-size"].value == 123
    assert found["decode-speed"].value == pytest.approx(100)
    first, read = found["time-to-first-token"], found["prefill-speed"]
    assert read.value == pytest.approx(int(first.settings["prompt"].split()[0]) / first.value, rel=0.05)
    assert "answers of exporters.own" in found["decode-speed"].settings["timed"]
    assert machine.closed
    (line,) = heard
    assert line.startswith(
        "efficiency: the resident memory of student-own is not measured: a separate process failed: "
    )
    assert "no installed plugin opens" in line


@pytest.mark.usefixtures("on_cpu")
def test_a_teacher_behind_a_server_is_timed(tmp_path: Path, machine: Machine) -> None:
    found, _ = measured(tmp_path, machine, kdtool.Subject("teacher", "teacher"))
    assert list(found) == ["time-to-first-token", "prefill-speed", "decode-speed"]


def test_a_teacher_that_stores_answers_is_not_timed(machine: Machine, tmp_path: Path) -> None:
    class Storing(kdtool.Teacher):
        """Yields stored answers."""

        stores_answers = True

        def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime:
            return machine

    heard: list[str] = []
    run = make_run(tmp_path, {"teacher": Storing(Storing.Config())}, say=heard.append)
    assert not list(Efficiency(Efficiency.Config()).kdtool_evaluate(run, [kdtool.Subject("teacher", "teacher")]))
    assert (machine.asked, machine.closed) == ([], True)
    assert "teacher is left out: it returns stored answers" in heard[0]

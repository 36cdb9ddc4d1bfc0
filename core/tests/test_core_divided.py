"""Requests that rank 0 divides: all ranks take part, and results are those of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdtool import LogLikelihood, PluginError, Request, Runtime, Subject, TextAnswer
from kdtool._run.ranks import DividedRuntime, take_part

SUBJECT = Subject("student", "student", Path("model"), 3, arm="student")


class Upper(Runtime):
    """Answers in capitals; `before` is called before each chunk."""

    def __init__(self, before: Any = lambda: None) -> None:
        self.before, self.done, self.closed = before, list[int](), False

    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        requests = list(requests)
        self.before()
        self.done.append(len(requests))
        for request in reversed(requests):
            yield TextAnswer(request.id, request.prompt.upper() + (request.suffix or ""), "stop", 1, request.seed)

    def score(self, texts: Sequence[str]) -> Iterator[LogLikelihood]:
        self.before()
        self.done.append(len(texts))
        for text in texts:
            yield LogLikelihood(-float(len(text)) / 3, len(text), len(text.encode()))

    def close(self) -> None:
        self.closed = True


def requests(count: int) -> list[Request]:
    return [Request(f"n{i}", f"prompt {i}", 5, seed=i, suffix="é" if i % 2 else None) for i in range(count)]


class Ranks:
    """Rank 0 in this thread, and another rank that takes part in its own."""

    def __init__(self, folder: Path, *, opens: bool = True) -> None:
        self.folder, self.opens, self.over = folder, opens, threading.Event()
        self.other, self.errors = Upper(), list[BaseException]()
        self.subjects: list[Subject] = []
        self.thread = threading.Thread(target=self._take_part)

    def _take_part(self) -> None:
        try:
            while not self.over.is_set():
                take_part(self.folder, 1, self._open, self.over.is_set)
        except PluginError as error:
            self.errors.append(error)

    def _open(self, subject: Subject) -> Runtime | None:
        self.subjects.append(subject)
        return self.other if self.opens else None

    def __enter__(self) -> Ranks:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(60)

    def wait(self) -> None:
        """Wait until the other rank has done something."""
        deadline = time.monotonic() + 60
        while not self.other.done and time.monotonic() < deadline:
            time.sleep(0.01)


def test_both_ranks_answer_and_every_request_is_answered_once(tmp_path: Path) -> None:
    expected = {answer.id: answer for answer in Upper().answer(requests(150))}
    with Ranks(tmp_path) as ranks:
        own = Upper(ranks.wait)
        with DividedRuntime(own, SUBJECT, tmp_path, 2) as runtime:
            answers = list(runtime.answer(requests(150)))
    assert {answer.id: answer for answer in answers} == expected
    assert len(answers) == 150
    assert ranks.other.done
    assert sum(own.done) + sum(ranks.other.done) == 150
    assert max(own.done + ranks.other.done) <= 32
    assert ranks.subjects == [SUBJECT], "opened once"
    assert (own.closed, ranks.other.closed) == (True, True)
    assert list(tmp_path.iterdir()) == [], "nothing is left for the artefact"


def test_scores_come_in_order_whoever_made_them(tmp_path: Path) -> None:
    texts = [f"{'é' * (i % 7)} {i}" for i in range(40)]
    with Ranks(tmp_path) as ranks:
        ranks.other.before = lambda: time.sleep(0.02)
        with DividedRuntime(Upper(ranks.wait), SUBJECT, tmp_path, 2) as runtime:
            assert list(runtime.score(texts)) == list(Upper().score(texts))
            assert list(runtime.score(texts[:3])) == list(Upper().score(texts[:3]))
            assert list(runtime.answer([])) == []
    assert ranks.other.done


def test_two_subjects_are_open_at_once_and_rank_0_does_all_where_no_other_comes(tmp_path: Path) -> None:
    with Ranks(tmp_path), DividedRuntime(Upper(), SUBJECT, tmp_path, 2) as one:
        with DividedRuntime(Upper(), Subject("base", "base"), tmp_path, 2) as other:
            pairs = zip(one.score(["a", "bcd"]), other.score(["a", "bcd"]), strict=True)
            assert [first == second for first, second in pairs] == [True, True]
        assert len(list(one.score(["a"]))) == 1
    with DividedRuntime(Upper(), SUBJECT, tmp_path, 8) as runtime:
        assert len(list(runtime.answer(requests(100)))) == 100


def test_a_rank_that_cannot_open_the_subject_fails(tmp_path: Path) -> None:
    with Ranks(tmp_path, opens=False) as ranks:
        held = threading.Event()
        with DividedRuntime(Upper(lambda: held.wait(1)), SUBJECT, tmp_path, 2) as runtime:
            next(runtime.answer(requests(64)))
            ranks.thread.join(60)
    assert "process 1 cannot open student" in str(ranks.errors[0])

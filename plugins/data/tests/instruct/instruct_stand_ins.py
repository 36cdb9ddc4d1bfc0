"""Stand-ins for the tests of `instruct`: a teacher that writes instruction data, filters, and what a generation left."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
from kdtool_data.instruct import Instruct
from kdtool_data.instruct.candidates import code_of
from kdtool_testing import make_run

PRICE = 1_000_000_000
"""Picodollars of an answer: a tenth of a cent."""

RIGHT, WRONG, BROKEN = "def add(x):\n    return x + 1", "def add(x):\n    return x - 1", "def add(x:\n    return"
ONE_CELL: dict[str, Any] = {"languages": ("python",), "difficulties": ("easy",)}
Code = str | Callable[[kdtool.Request], str]


class Writer(kdtool.Teacher):
    """Answers in another order than it was asked, a share of `failing` badly, decided by the request's content alone.

    `script` says how answers end, by their number; `change` is what a repair words differently.
    """

    offers = frozenset({"text"})

    def __init__(
        self,
        failing: float = 0.0,
        *,
        tests: str = "assert add(1) == 2",
        code: Code = RIGHT,
        script: Mapping[int, tuple[str, str, int]] | None = None,
        change: tuple[str, str] = ("Write it: ", "Write it: "),
        shuffled: bool = True,
    ) -> None:
        super().__init__(self.Config())
        self.failing, self.tests, self.code, self.change = failing, tests, code, change
        self.script, self.shuffled = script or {}, shuffled
        self.asked: list[kdtool.Request] = []
        self.calls: list[int] = []

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        waiting = list(requests)
        self.calls.append(len(waiting))
        if self.shuffled:
            random.Random(len(self.asked)).shuffle(waiting)
        for request in waiting:
            self.asked.append(request)
            answer = self.answer(request)
            finish: Any
            finish, reason, price = self.script.get(
                len(self.asked) - 1, (answer.finish, answer.reason, answer.picodollars)
            )
            yield replace(answer, finish=finish, reason=reason, picodollars=price)

    def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
        system, user = request.turns[0][1], request.turns[1][1]
        language = system.partition("begin with ```")[2].partition(".")[0]
        subject = f"{user.partition('Subject: ')[2]} {drawn_from(request.turns[:2]).random()}"
        code = self.code if isinstance(self.code, str) else self.code(request)
        text = written(subject, language, code, self.tests if "<tests>" in system else "")
        if len(request.turns) > 2:
            text = text.replace(*self.change)
        drawn = drawn_from(request.turns)
        if drawn.random() < self.failing:
            how = drawn.randrange(4)
            if how == 0:
                return kdtool.TextAnswer(request.id, "", "refused", 5, 0, reason="")
            if how == 1:
                return kdtool.TextAnswer(request.id, text, "length", 5, 9, PRICE)
            text = text.replace("</response>", "") if how == 2 else text.replace("```", "'''")
        return kdtool.TextAnswer(request.id, text, "stop", 5, 9, PRICE)


def drawn_from(turns: object) -> random.Random:
    return random.Random(hashlib.sha256(repr(turns).encode()).hexdigest())


def written(subject: str, language: str, code: str, tests: str) -> str:
    response = f"<response>\n```{language}\n{code}\n```\nDone: {subject}\n</response>\n"
    return f"<instruction>Write it: {subject}</instruction>\n{response}" + (
        f"<tests>\n{tests}\n</tests>" if tests else ""
    )


def repaired_from(first: str, then: str = RIGHT) -> Code:
    """Return code that is wrong until the error is known."""
    return lambda request: then if len(request.turns) > 2 else first


class Rule(kdtool.Filter):
    """Rejects rows for the reasons that a function gives, and remembers how often it judged each."""

    undecided = frozenset({"no verdict"})

    def __init__(self, rule: Callable[[kdtool.Example], str | None]) -> None:
        super().__init__(self.Config())
        self.rule = rule
        self.judged: Counter[str] = Counter()

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
        self.judged.update(example.id for example in examples)
        return [self.rule(example) for example in examples]


def no_twos() -> Rule:
    return Rule(lambda example: "a two" if "0.2" in kdtool.parts_of(example.body)[0] else None)


def unkempt_until_repaired() -> Rule:
    return Rule(lambda example: None if example.meta.get("repairs") else "unkempt")


def does_not_parse(example: kdtool.Example) -> str | None:
    try:
        compile(code_of(kdtool.parts_of(example.body)[1], "python"), "x", "exec")
    except SyntaxError:
        return "broken"
    return None


class Seeds(kdtool.Corpus):
    """The examples of a function."""

    def __init__(self, examples: Callable[[], Iterator[kdtool.Example]]) -> None:
        super().__init__(self.Config())
        self.examples = examples

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        return self.examples()


def instruct(
    folder: Path, teacher: kdtool.Teacher, *others: tuple[str, kdtool.Component], **settings: Any
) -> list[kdtool.Example]:
    corpus = Instruct(Instruct.Config.model_validate({"rows": 6, "tasks": ("generate",)} | settings))
    return list(corpus.kdtool_examples(run_with(folder, teacher, *others)))


def run_with(folder: Path, teacher: kdtool.Teacher, *others: tuple[str, kdtool.Component]) -> kdtool.RunInfo:
    folder.mkdir(parents=True, exist_ok=True)
    return make_run(folder, {"teacher": teacher, **dict(others)}, say=print)


def status(folder: Path) -> Any:
    (file,) = folder.glob("instruct/*/status.json")
    return json.loads(file.read_text("utf-8"))


def rejected_lines(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.glob("instruct/*/rejected.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]

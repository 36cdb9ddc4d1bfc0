"""Instruction data: the suite of corpora, exact quotas with a teacher that fails, repairs, limits, and what is recorded."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import kdtool
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_corpus_instruct import Instruct
from kdtool_corpus_instruct._answers import Parts, code_of, read_parts
from kdtool_corpus_instruct._cells import LANGUAGES, TASKS, quotas
from kdtool_testing import CorpusConformance, make_run

PRICE = 1_000_000_000
"""Picodollars of an answer: a tenth of a cent."""


class Writer(kdtool.Teacher):
    """Answers in another order than it was asked, a share of `failing` badly, decided by the request's content alone."""

    offers = frozenset({"text"})

    def __init__(self, failing: float = 0.0, *, tests: str = "assert add(1) == 2", code: str = "") -> None:
        super().__init__(self.Config())
        self.failing = failing
        self.tests = tests
        self.code = code or "def add(x):\n    return x + 1"
        self.asked: list[kdtool.Request] = []

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        waiting = list(requests)
        random.Random(len(self.asked)).shuffle(waiting)
        for request in waiting:
            self.asked.append(request)
            yield self.answer(request)

    def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
        system, user = request.turns[0][1], request.turns[1][1]
        language = system.partition("begin with ```")[2].partition(".")[0]
        drawn = random.Random(hashlib.sha256(repr(request.turns).encode()).hexdigest())
        text = self.write(user.partition("Subject: ")[2] + f" {drawn.random()}", language, tested="<tests>" in system)
        if drawn.random() < self.failing:
            how = drawn.randrange(4)
            if how == 0:
                return kdtool.TextAnswer(request.id, "", "refused", 5, 0, reason="")
            if how == 1:
                return kdtool.TextAnswer(request.id, text, "length", 5, 9, PRICE)
            text = text.replace("</response>", "") if how == 2 else text.replace("```", "'''")
        return kdtool.TextAnswer(request.id, text, "stop", 5, 9, PRICE)

    def write(self, subject: str, language: str, *, tested: bool) -> str:
        tests = f"<tests>\n{self.tests}\n</tests>" if tested else ""
        return (
            f"<instruction>Write it: {subject}</instruction>\n<response>\n```{language}\n{self.code}\n```\nDone: {subject}\n"
            f"</response>\n{tests}"
        )


class NoTwos(kdtool.Screen):
    """Rejects rows with a 2 in their subject's draw, and remembers how often it judged each."""

    def __init__(self) -> None:
        super().__init__(self.Config())
        self.judged: Counter[str] = Counter()

    def kdtool_screen(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
        self.judged.update(example.id for example in examples)
        return ["a two" if "0.2" in kdtool.parts_of(example.body)[0] else None for example in examples]


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


class TestInstruct(CorpusConformance):
    component = Instruct
    entry_point = "instruct"
    settings: ClassVar = {"rows": 12, "tasks": ["generate", "debug"]}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Writer(0.3), "screens.twos": NoTwos()}


def test_each_cell_has_exactly_its_rows_with_a_teacher_that_fails(tmp_path: Path) -> None:
    teacher, screen = Writer(0.2), NoTwos()
    tasks = TASKS[:4]
    rows = instruct(tmp_path, teacher, ("screens.twos", screen), rows=6 * 3 * 4 * 5, tasks=tasks, round=64)
    cells = Counter((row.language, row.meta["difficulty"], row.meta["task"]) for row in rows)
    assert len(cells) == 6 * 3 * 4
    assert set(cells.values()) == {5}
    assert len({row.id for row in rows}) == 360
    judged = status(tmp_path)
    assert judged["state"] == "complete"
    assert sum(cell["asked"] for cell in judged["cells"]) == len(teacher.asked), "no row was one too many"
    assert sum(cell["asked"] - cell["accepted"] - sum(cell["rejected"].values()) for cell in judged["cells"]) == 0
    assert 1.2 < len(teacher.asked) / 360 < 2
    assert set(screen.judged.values()) <= set(range(1, 20))
    assert len({request.turns for request in teacher.asked}) == len(teacher.asked), "no request twice"


def test_the_rows_do_not_depend_on_the_order_of_answers(tmp_path: Path) -> None:
    class Orderly(Writer):
        def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
            return map(self.answer, requests)

    Orderly.__qualname__ = Writer.__qualname__  # rows name the key of their request
    one = instruct(tmp_path / "one", Writer(0.4), rows=60, round=7)
    assert one == instruct(tmp_path / "other", Orderly(0.4), rows=60, round=7)


def test_a_row_says_where_it_comes_from(tmp_path: Path) -> None:
    teacher = Writer()
    row, *_ = instruct(tmp_path, teacher, languages=("python",), difficulties=("easy",), rows=1)
    assert isinstance(row.body, kdtool.Messages)
    assert [role for role, _ in row.body.turns] == ["user", "assistant"]
    assert row.body.turns[0][1].startswith("Write it: ")
    assert (row.id, row.language, row.source) == ("python/easy/generate/0", "python", "instructions by teacher")
    assert row.meta.keys() == {
        "teacher", "model", "template", "request", "difficulty", "task", "style", "topic", "attempt", "tokens_in",
        "tokens_out", "picodollars",
    }  # fmt: skip
    assert row.meta["picodollars"] == str(PRICE)
    assert row.meta["template"].startswith("generate@")
    completion, *_ = instruct(tmp_path, teacher, languages=("python",), rows=1, form="completion")
    assert isinstance(completion.body, kdtool.Completion)


def test_a_cell_that_cannot_be_filled_says_which_screen_rejected_what(tmp_path: Path) -> None:
    class Nothing(kdtool.Screen):
        def kdtool_screen(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
            return ["too dull" if example.language == "go" else None for example in examples]

    expected = (
        r"instruct\.candidates: 3 of 18 cells cannot be filled: go/easy/generate has 0 of 2 rows after 6 requests, its "
        r"limit of candidates \(6 dull: too dull\).*raise candidates or dollars"
    )
    others = [("screens.dull", Nothing(Nothing.Config()))]
    with pytest.raises(kdtool.UsageError, match=expected):
        instruct(tmp_path, Writer(), *others, rows=36, candidates=3)
    assert status(tmp_path)["state"] == "interrupted"
    rows = instruct(tmp_path / "fewer", Writer(), *others, rows=36, candidates=3, fewer=True)
    assert Counter(row.language for row in rows) == dict.fromkeys(set(LANGUAGES) - {"go"}, 6)
    (rejected,) = (tmp_path / "fewer").glob("instruct/*/rejected.jsonl")
    lines = [json.loads(line) for line in rejected.read_text("utf-8").splitlines()]
    assert {(line["cell"].partition("/")[0], line["reason"]) for line in lines} == {("go", "dull: too dull")}
    assert all("<instruction>" in line["answer"] for line in lines)


def test_a_cell_stays_within_its_dollars(tmp_path: Path) -> None:
    for dollars, most in ((0.003, 3), (0.0105, 10)):
        folder = tmp_path / str(most)
        with pytest.raises(
            kdtool.UsageError, match=f"has {most} of 20 rows after {most} requests, its limit of dollars"
        ):
            instruct(folder, Writer(), languages=("python",), difficulties=("easy",), rows=20, dollars=dollars)
        (cell,) = status(folder)["cells"]
        assert cell["picodollars"] == most * PRICE <= dollars * 10**12
    assert len(instruct(tmp_path / "all", Writer(), languages=("python",), rows=20, dollars=1.0)) == 20


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
class Priced(Writer):
    """States a price, and remembers the sample that it is asked for."""

    def kdtool_estimate_answers(
        self, run: kdtool.RunInfo, requests: Iterable[kdtool.Request], times: float
    ) -> Iterator[kdtool.Estimate]:
        self.sample, self.times = list(requests), times
        yield kdtool.Estimate("answers", picodollars=round(PRICE * times * len(self.sample)))


def test_a_teacher_prices_the_requests_that_will_be_sent(tmp_path: Path) -> None:
    teacher = Priced()
    run = run_with(tmp_path, teacher)
    corpus = Instruct(Instruct.Config(rows=24, languages=("python",), temperature=1.0))
    (_, price) = corpus.kdtool_estimate(run, cast("Any", None))
    assert (price.picodollars, teacher.asked) == (24 * PRICE, [])
    assert price.note == "up to 4 times as much where rows are rejected"
    assert len(list(corpus.kdtool_examples(run))) == 24
    assert {teacher.answer_key(one) for one in teacher.sample} == {teacher.answer_key(one) for one in teacher.asked}
    (_, price) = Instruct(Instruct.Config(rows=100_000)).kdtool_estimate(run, cast("Any", None))
    assert len({one.id for one in teacher.sample}) == len(teacher.sample) <= 1000, "a sample stands for the others"
    assert price.picodollars == 100_000 * PRICE


def test_what_fails_its_tests_is_repaired_with_the_error(tmp_path: Path) -> None:
    class Learning(Writer):
        """Wrong at first, right once it is told the error."""

        def write(self, subject: str, language: str, *, tested: bool) -> str:
            return super().write(subject, language, tested=tested)

        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            self.code = "def add(x):\n    return x + 1" if len(request.turns) > 2 else "def add(x):\n    return x - 1"
            return super().answer(request)

    teacher = Learning()
    common: dict[str, Any] = {"languages": ("python",), "difficulties": ("easy",), "rows": 3, "tested": ("python",)}
    rows = instruct(tmp_path, teacher, **common, repairs=2)
    assert [row.meta["repairs"] for row in rows] == ["1", "1", "1"]
    assert all("x + 1" in kdtool.parts_of(row.body)[1] for row in rows)
    assert rows[0].meta["tests"] == "assert add(1) == 2"
    assert len(teacher.asked) == 6
    last = teacher.asked[-1].turns
    assert [role for role, _ in last] == ["system", "user", "assistant", "user"]
    assert "its tests fail: AssertionError" in last[-1][1]
    with pytest.raises(kdtool.UsageError, match="12 tests: AssertionError"):
        instruct(tmp_path / "unrepaired", Learning(), **common)


def test_a_screen_s_rejection_is_repaired_where_the_recipe_says_so(tmp_path: Path) -> None:
    class Fussy(kdtool.Screen):
        def kdtool_screen(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
            return [None if example.meta.get("repairs") else "unkempt" for example in examples]

    others = [("screens.fussy", Fussy(Fussy.Config()))]
    rows = instruct(tmp_path, Writer(), *others, rows=6, repairs=1, repaired=("fussy",))
    assert {row.meta["repairs"] for row in rows} == {"1"}
    with pytest.raises(kdtool.UsageError, match="fussy: unkempt"):
        instruct(tmp_path / "other", Writer(), *others, rows=6, repairs=1)


def test_seeds_inspire_and_are_not_learned(tmp_path: Path) -> None:
    class Seeds(kdtool.Corpus):
        def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
            for number in range(5):
                yield kdtool.Example(f"{number}", kdtool.Text(f"seed_number_{number} = 1"))
            yield kdtool.Example("held", kdtool.Text("held_out = 1"), split="test")

    teacher, seeds = Writer(), ("corpora.seeds", Seeds(Seeds.Config()))
    rows = instruct(tmp_path, teacher, seeds, rows=60, seeds="corpora.seeds", styles=("seed", "evolve", "examples"))
    assert {row.meta["style"] for row in rows} == {"seed", "evolve", "examples"}
    asked = "".join(request.turns[1][1] for request in teacher.asked)
    assert all(f"seed_number_{number} = 1" in asked for number in range(5))
    assert "held_out" not in asked
    assert not any("seed_number" in text for row in rows for text in kdtool.parts_of(row.body))


def test_own_templates_and_variables(tmp_path: Path) -> None:
    own = tmp_path / "riddle.jinja"
    own.write_text(
        '{% extends "_base.jinja" %}{% block task %}A riddle for {{ reader }}.{% endblock %}', encoding="utf-8"
    )
    plain = tmp_path / "plain.jinja"
    plain.write_text(
        "Only this, in {{ language }}, begin with ```{{ language }}. <tests> {{ number }}", encoding="utf-8"
    )

    class Plain(Writer):
        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            if len(request.turns) == 1:
                return kdtool.TextAnswer(request.id, self.write("plain", "go", tested=False), "stop", 1, 1)
            return super().answer(request)

    teacher = Plain()
    rows = instruct(
        tmp_path, teacher, languages=("go",), difficulties=("easy",), rows=20, tasks={"riddle": 3.0, "plain": 1.0},
        templates={"riddle": own, "plain": plain}, variables={"reader": ("a child", "a pirate")},
    )  # fmt: skip
    assert Counter(row.meta["task"] for row in rows) == {"riddle": 15, "plain": 5}
    asked = "".join(request.turns[0][1] for request in teacher.asked)
    assert "A riddle for a child." in asked
    assert "A riddle for a pirate." in asked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ language }} {{ reader }} {{ other }}", "uses the undeclared variables other; declare them in `variables`"),
        ("{% if %}", "cannot be read as a Jinja template"),
        ('{% extends "missing.jinja" %}', "missing.jinja cannot be read"),
        ("{% extends language %}", "computes the name of a template"),
    ],
)
def test_a_template_with_a_mistake_is_refused_by_check(tmp_path: Path, text: str, expected: str) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(text, encoding="utf-8")
    settings = {"rows": 1, "tasks": ("own",), "templates": {"own": own}, "variables": {"reader": "you"}}
    corpus = Instruct(Instruct.Config.model_validate(settings))
    (problem,) = corpus.kdtool_check(run_with(tmp_path / "run", Writer()), "start")
    assert expected in problem


def test_a_template_runs_in_a_sandbox(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{{ language.__class__.__mro__[1].__subclasses__() }}", encoding="utf-8")
    with pytest.raises(kdtool.UsageError, match=r"templates\.own cannot be rendered"):
        instruct(tmp_path, Writer(), tasks=("own",), templates={"own": own})


def test_a_template_s_version_follows_what_it_extends(tmp_path: Path) -> None:
    def identity() -> Mapping[str, str]:
        corpus = Instruct(Instruct.Config.model_validate({"rows": 1, "tasks": ("own",), "templates": {"own": own}}))
        return corpus.kdtool_identity(make_run(tmp_path))

    own, base = tmp_path / "own.jinja", tmp_path / "mine.jinja"
    own.write_text('{% extends "mine.jinja" %}', encoding="utf-8")
    base.write_text("one", encoding="utf-8")
    first = identity()
    base.write_text("two", encoding="utf-8")
    assert identity() != first


def test_a_teacher_that_refuses_everything_ends_the_run(tmp_path: Path) -> None:
    class Refusing(Writer):
        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            return kdtool.TextAnswer(request.id, "", "refused", 0, 0, reason="no room")

    teacher = Refusing()
    with pytest.raises(kdtool.UsageError, match=r"teacher refused each of 6 requests \(no room\)"):
        instruct(tmp_path, teacher)
    assert len(teacher.asked) == 6


def test_a_teacher_that_skips_a_request_is_named(tmp_path: Path) -> None:
    class Skipping(Writer):
        def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
            return map(self.answer, list(requests)[1:])

    with pytest.raises(kdtool.PluginError, match=r"no answer to 'python/easy/generate/0#0'"):
        instruct(tmp_path, Skipping())


@given(
    st.integers(1, 500),
    st.dictionaries(st.sampled_from(LANGUAGES), st.floats(0.01, 100), min_size=1),
    st.dictionaries(st.sampled_from(TASKS), st.floats(0.01, 100), min_size=1),
)
def test_quotas_add_up_and_follow_the_shares(rows: int, languages: dict[str, float], tasks: dict[str, float]) -> None:
    found = quotas(rows, languages, {"easy": 1.0}, tasks)
    assert sum(found.values()) == rows
    for cell, count in found.items():
        exact = rows * languages[cell.language] * tasks[cell.task] / sum(languages.values()) / sum(tasks.values())
        assert abs(count - exact) < 1 + 1e-6


@given(st.text(), st.text(), st.text())
def test_parts_are_read_back(instruction: str, response: str, tests: str) -> None:
    wrapped = f"So:\n<instruction>{instruction}</instruction><response>{response}</response><tests>{tests}</tests>"
    found = read_parts(wrapped, tested=True)
    if "<" in instruction + response + tests or "```" in tests:
        return
    expected = instruction.strip(), response.strip(), tests.strip()
    if all(expected):
        assert found == Parts(*expected)
    else:
        assert isinstance(found, str)


def test_code_of_a_response() -> None:
    text = "One:\n```py\nx = 1\n```\nand\n```\ny = 2\n```\nnot\n```rust\nfn f() {}\n```\n"
    assert code_of(text, "python") == "x = 1\n\ny = 2\n"
    assert code_of("no code", "python") == ""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"styles": ("seed",)}, "need seeds"),
        ({"tasks": ("riddle",)}, "tasks without a template: riddle"),
        ({"templates": {"riddle": "a.jinja"}}, "templates of no task: riddle"),
        ({"languages": ("cobol",)}, "languages"),
    ],
)
def test_settings_that_cannot_be_drawn_from_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=expected):
        Instruct.Config.model_validate({"rows": 1} | settings)


def test_lines_count_accepted_rows_and_foresee_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdtool_measuring._pace.SECONDS", 0.0)
    instruct(tmp_path, Writer(0.4), rows=60, round=60, languages=("python",))
    lines = [line for line in capsys.readouterr().out.splitlines() if "requests answered" in line]
    assert lines[0].startswith("instruct: 0 of 60 rows accepted, 1 requests answered, ")
    assert lines[0].endswith(" left at this speed")
    (after,) = (
        one for one in lines if " rows accepted, 60 requests answered" in one and not one.startswith("instruct: 0")
    )
    (last,) = lines[-1:]
    assert last.startswith("instruct: 60 of 60 rows accepted, ")
    assert last.endswith(", 0 min left at this speed")
    assert 20 < int(after.split()[1]) < 50


def test_the_account_sums_all_cells_and_shows_some_of_each_rejection(tmp_path: Path) -> None:
    teacher = Writer(0.5)
    rows = instruct(tmp_path, teacher, rows=40, languages=("python", "go"))
    corpus = Instruct(Instruct.Config(rows=40, tasks=("generate",), languages=("python", "go")))
    account = corpus.kdtool_account(run_with(tmp_path, teacher))
    assert account is not None
    assert (account["rows"], account["requests"]) == (len(rows), len(teacher.asked))
    assert account["picodollars"] == sum(teacher.answer(one).picodollars for one in teacher.asked)
    assert account["tokens_in"] == 5 * len(teacher.asked)
    assert sum(account["rejected"].values()) == len(teacher.asked) - len(rows)
    shown = Counter(one["reason"] for one in account["samples"])
    assert shown.keys() == account["rejected"].keys()
    assert set(shown.values()) == {2}
    assert any("<instruction>" in one["text"] for one in account["samples"])
    assert corpus.kdtool_account(run_with(tmp_path / "other", teacher)) is None

"""Instruction data: the suite of corpora, exact quotas with a teacher that fails, repairs, limits, and what is recorded."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import kdtool
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_data.instruct import Instruct
from kdtool_data.instruct.candidates import Parts, code_of, read_parts
from kdtool_data.instruct.settings import LANGUAGES, TASKS, quotas
from kdtool_measuring import Priced
from kdtool_programs import missing
from kdtool_testing import CorpusConformance, Listener, make_run

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


class NoTwos(kdtool.Filter):
    """Rejects rows with a 2 in their subject's draw, and remembers how often it judged each."""

    def __init__(self) -> None:
        super().__init__(self.Config())
        self.judged: Counter[str] = Counter()

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
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
        return {"teacher": Writer(0.3), "filters.twos": NoTwos()}


def test_each_cell_has_exactly_its_rows_with_a_teacher_that_fails(tmp_path: Path) -> None:
    teacher, filter_ = Writer(0.2), NoTwos()
    tasks = TASKS[:4]
    rows = instruct(tmp_path, teacher, ("filters.twos", filter_), rows=6 * 3 * 4 * 5, tasks=tasks, round=64)
    cells = Counter((row.language, row.meta["difficulty"], row.meta["task"]) for row in rows)
    assert len(cells) == 6 * 3 * 4
    assert set(cells.values()) == {5}
    assert len({row.id for row in rows}) == 360
    judged = status(tmp_path)
    assert judged["state"] == "complete"
    assert sum(cell["asked"] for cell in judged["cells"]) == len(teacher.asked), "no row was one too many"
    assert sum(cell["asked"] - cell["accepted"] - sum(cell["rejected"].values()) for cell in judged["cells"]) == 0
    assert 1.2 < len(teacher.asked) / 360 < 2
    assert set(filter_.judged.values()) <= set(range(1, 20))
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


def test_a_cell_that_cannot_be_filled_says_which_filter_rejected_what(tmp_path: Path) -> None:
    class Nothing(kdtool.Filter):
        def kdtool_filter(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
            return ["too dull" if example.language == "go" else None for example in examples]

    expected = (
        r"instruct\.candidates: 3 of 18 cells cannot be filled: go/easy/generate has 0 of 2 rows after 6 requests, its "
        r"limit of candidates \(6 dull: too dull\).*raise candidates or dollars"
    )
    others = [("filters.dull", Nothing(Nothing.Config()))]
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


class Paid(Writer, Priced):
    """States a price, and remembers the sample that it is asked for."""

    def estimate_answers(
        self, run: kdtool.RunInfo, requests: Iterable[kdtool.Request], times: float = 1, most: float = 1
    ) -> Iterator[kdtool.Estimate]:
        self.sample, self.times, self.most = list(requests), times, most
        yield kdtool.Estimate("answers", picodollars=round(PRICE * times * len(self.sample)))


def test_a_teacher_prices_the_requests_that_will_be_sent(tmp_path: Path) -> None:
    teacher = Paid()
    run = run_with(tmp_path, teacher)
    corpus = Instruct(Instruct.Config(rows=24, languages=("python",), temperature=1.0))
    (_, price) = corpus.kdtool_estimate(run, cast("Any", None))
    assert (price.picodollars, teacher.asked) == (24 * PRICE, [])
    assert (teacher.times, teacher.most) == (1, 4)
    assert price.note == "up to 4 times as much if rows are rejected"
    assert len(list(corpus.kdtool_examples(run))) == 24
    assert {teacher.answer_key(one) for one in teacher.sample} == {teacher.answer_key(one) for one in teacher.asked}
    (_, price) = Instruct(Instruct.Config(rows=100_000)).kdtool_estimate(run, cast("Any", None))
    assert len({one.id for one in teacher.sample}) == len(teacher.sample) <= 1000, "a sample stands for the others"
    assert price.picodollars == 100_000 * PRICE


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
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


def test_a_filter_s_rejection_is_repaired_where_the_recipe_says_so(tmp_path: Path) -> None:
    class Fussy(kdtool.Filter):
        def kdtool_filter(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
            return [None if example.meta.get("repairs") else "unkempt" for example in examples]

    others = [("filters.fussy", Fussy(Fussy.Config()))]
    rows = instruct(tmp_path, Writer(), *others, rows=6, repairs=1, repaired=("fussy",))
    assert {row.meta["repairs"] for row in rows} == {"1"}
    with pytest.raises(kdtool.UsageError, match="fussy: unkempt"):
        instruct(tmp_path / "other", Writer(), *others, rows=6, repairs=1)


def test_a_row_without_a_verdict_is_replaced_and_not_repaired(tmp_path: Path) -> None:
    class Silent(kdtool.Filter):
        undecided = frozenset({"no verdict"})
        verdicts: ClassVar = iter(["no verdict", "unkempt"])

        def kdtool_filter(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
            return [next(self.verdicts, None) for _ in examples]

    teacher = Writer()
    others = [("filters.silent", Silent(Silent.Config()))]
    rows = instruct(tmp_path, teacher, *others, **ONE_CELL, rows=2, repairs=1, repaired=("silent",))
    assert len(rows) == 2
    assert sorted(len(request.turns) for request in teacher.asked) == [2, 2, 2, 4], "one repair, of what was judged"


def test_seeds_are_pieces_of_the_first_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(kdtool.Corpus):
        def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
            for split in ("test", "train", "train"):
                yield kdtool.Example(
                    split, kdtool.Text("\n".join(f"{split} = {line}" for line in range(40))), split=split
                )
            raise AssertionError("read further than needed")

    monkeypatch.setattr("kdtool_data.instruct.requests._SEEDS", 2)
    teacher, seeds = Writer(), ("corpora.seeds", Long(Long.Config()))
    instruct(tmp_path, teacher, seeds, rows=20, seeds="corpora.seeds")
    assert {request.turns[1][1].count("train = ") for request in teacher.asked} == {15}
    monkeypatch.setattr(
        Long, "kdtool_examples", lambda self, run: iter([kdtool.Example("a", kdtool.Text("x"), split="test")])
    )
    with pytest.raises(kdtool.UsageError, match=r"instruct\.seeds: the corpus has no training examples"):
        instruct(tmp_path / "none", Writer(), seeds, seeds="corpora.seeds")


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
        ({"templates": {"riddle": "a.jinja"}}, "templates without a task: riddle"),
        ({"languages": ("cobol",)}, "languages"),
        ({"variables": {"seed": "x"}}, "names that requests already use: seed"),
        ({"give": "pairs"}, "set repairs"),
    ],
)
def test_settings_that_cannot_be_drawn_from_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=expected):
        Instruct.Config.model_validate({"rows": 1} | settings)


def test_lines_count_accepted_rows_and_foresee_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdtool_measuring.teachers.SECONDS", 0.0)
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


class Repairing(Writer):
    """Wrong code at first, right code once it is told the error; `change` alters what it repeats."""

    def __init__(self, change: str = "") -> None:
        super().__init__(0.0)
        self.change = change

    def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
        found = super().answer(request)
        subject = hashlib.sha256(request.turns[1][1].encode()).hexdigest()
        bad, good = "def f(:\n    pass", "def f(x):\n    return x"
        repaired = len(request.turns) > 2
        text = self.write(subject, "python", tested="<tests>" in request.turns[0][1])
        text = text.replace(self.code, good if repaired else bad)
        if repaired and self.change:
            text = text.replace("Write it: ", "Write this instead: ") if self.change == "task" else text
            text = text.replace("add(1)", "add(1 + 0)") if self.change == "tests" else text
        return kdtool.TextAnswer(found.id, text, "stop", 5, 9, PRICE)


def parses(example: kdtool.Example) -> bool:
    try:
        compile(code_of(kdtool.parts_of(example.body)[1], "python"), "x", "exec")
    except SyntaxError:
        return False
    return True


class Parsing(kdtool.Filter):
    """Rejects Python that does not parse."""

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
        return [None if parses(example) else "broken" for example in examples]


PARSING = ("filters.syntax", Parsing(Parsing.Config()))
EASY: dict[str, Any] = {"languages": ("python",), "difficulties": ("easy",), "repairs": 2}


def test_a_repaired_answer_and_the_failed_one_are_a_pair(tmp_path: Path) -> None:
    teacher = Repairing()
    pairs = instruct(tmp_path, teacher, PARSING, **EASY, rows=5, give="pairs")
    assert len(pairs) == 5
    for pair in pairs:
        assert isinstance(pair.body, kdtool.Preference)
        assert pair.body.prompt.startswith("Write it: ")
        assert pair.body.prompt.endswith("\n\n")
        assert "return x" in pair.body.completion
        assert "def f(:" in pair.body.rejected
        assert pair.meta["rejected"] == pair.meta["repaired"] == "syntax: broken"
        assert (pair.meta["repairs"], pair.meta["picodollars"]) == ("1", str(PRICE))
        assert pair.meta["repaired_picodollars"] == str(PRICE)
        assert pair.meta["template"].startswith("generate@")
        assert pair.meta["repair_template"].startswith("_repair@")
    asked = len(teacher.asked)
    rows = instruct(tmp_path / "rows", teacher, PARSING, **EASY, rows=5, form="completion")
    assert [(row.id, kdtool.parts_of(row.body)) for row in rows] == [
        (row.id, kdtool.parts_of(row.body)) for row in pairs
    ]
    assert set(teacher.asked[asked:]) == set(teacher.asked[:asked]), "both ask for the same, which is stored"


@pytest.mark.parametrize(("change", "tested"), [("task", ()), ("tests", ("python",))])
def test_a_repair_that_changes_the_task_or_the_tests_makes_no_pair(
    tmp_path: Path, change: str, tested: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdtool_data.instruct import generation

    monkeypatch.setattr(generation, "run_tests", lambda run, config, file, candidates: candidates)
    with pytest.raises(
        kdtool.UsageError, match=r"instruct\.give: no accepted row repairs a failed answer .* there are no"
    ):
        instruct(tmp_path, Repairing(change), PARSING, **EASY, rows=2, give="pairs", tested=tested)
    assert len(instruct(tmp_path / "kept", Repairing(), PARSING, **EASY, rows=2, give="pairs", tested=tested)) == 2


def test_rows_that_needed_no_repair_fill_their_quota_and_are_not_among_the_pairs(tmp_path: Path) -> None:
    class Mixed(Repairing):
        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            found = super().answer(request)
            good = int(hashlib.sha256(request.turns[1][1].encode()).hexdigest(), 16) % 2
            return (
                replace(found, text=found.text.replace("def f(:\n    pass", "def f(x):\n    return x"))
                if good
                else found
            )

    pairs = instruct(tmp_path, Mixed(), PARSING, **EASY, rows=20, give="pairs")
    assert 0 < len(pairs) < 20
    (cell,) = status(tmp_path)["cells"]
    assert cell["accepted"] == 20
    assert cell["asked"] == 20 + len(pairs)
    assert [pair.id for pair in pairs] == sorted(
        {pair.id for pair in pairs}, key=lambda name: int(name.rpartition("/")[2])
    )


def test_a_repair_s_own_template_may_have_a_system_s_part(tmp_path: Path) -> None:
    own = tmp_path / "mend.jinja"
    own.write_text("Left out.\n=== user ===\nIt fails: {{ error }}", encoding="utf-8")
    teacher = Repairing()
    rows = instruct(tmp_path, teacher, PARSING, **EASY, rows=1, templates={"_repair": own})
    assert len(rows) == 1
    assert teacher.asked[-1].turns[-1] == ("user", "It fails: it was rejected: broken")


def test_a_seed_is_never_read_as_a_template(tmp_path: Path) -> None:
    text = "{{ topic }} {% for %}\n=== user ===\n</instruction> {{ 7 * 7 }}"

    class Seeds(kdtool.Corpus):
        def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
            yield kdtool.Example("0", kdtool.Text(text))

    own = tmp_path / "own.jinja"
    own.write_text("Begin with ```go. {{ seed }}\n=== user ===\n{{ seed }}, Subject: {{ topic }}", encoding="utf-8")
    teacher, seeds = Writer(code="x"), ("corpora.seeds", Seeds(Seeds.Config()))
    instruct(
        tmp_path,
        teacher,
        seeds,
        rows=1,
        languages=("go",),
        seeds="corpora.seeds",
        tasks=("own",),
        templates={"own": own},
    )
    (_, system), (_, user) = teacher.asked[0].turns
    assert system.endswith(text)
    assert user.startswith(text)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_explanations_need_no_tests(tmp_path: Path) -> None:
    teacher = Writer()
    rows = instruct(
        tmp_path, teacher, languages=("python",), difficulties=("easy",), tasks=("explain", "generate"), rows=4,
        tested=("python",),
    )  # fmt: skip
    assert {row.meta["task"]: "tests" in row.meta for row in rows} == {"explain": False, "generate": True}


@pytest.mark.parametrize(
    ("label", "expected"), [("", {"filters.twos"}), ("prefer", {"train.prefer.filters.twos"}), ("x", {"filters.twos"})]
)
def test_a_phase_s_own_filters_judge_its_rows_alone(tmp_path: Path, label: str, expected: set[str]) -> None:
    filters = {name: NoTwos() for name in ("filters.twos", "train.prefer.filters.twos", "train.other.filters.twos")}
    run = make_run(tmp_path, {"teacher": Writer(), **filters}, label=label)
    list(Instruct(Instruct.Config(rows=6, tasks=("generate",))).kdtool_examples(run))
    assert {name for name, filter_ in filters.items() if filter_.judged} == expected


ONE_CELL: dict[str, Any] = {"languages": ("python",), "difficulties": ("easy",)}


class Scripted(Writer):
    """Answers as `finish` and `price` say of the number of the request, from 0."""

    def __init__(
        self, script: Mapping[int, tuple[str, str, int]], otherwise: tuple[str, str, int] = ("stop", "", PRICE)
    ) -> None:
        super().__init__()
        self.script, self.otherwise = script, otherwise
        self.calls: list[int] = []

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        waiting = list(requests)
        self.calls.append(len(waiting))
        for request in waiting:
            self.asked.append(request)
            yield self.answer(request)

    def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
        finish: Any
        finish, reason, price = self.script.get(len(self.asked) - 1, self.otherwise)
        return replace(super().answer(request), finish=finish, reason=reason, picodollars=price)


def test_refused_and_cut_off_answers_are_rejected_whatever_they_hold(tmp_path: Path) -> None:
    teacher = Scripted({0: ("refused", "", 0), 1: ("length", "", PRICE)})
    rows = instruct(tmp_path, teacher, **ONE_CELL, rows=3, repairs=1)
    assert len(rows) == 3
    (cell,) = status(tmp_path)["cells"]
    assert cell["rejected"] == {"refused": 1, "cut off at 4096 tokens": 1}
    assert (cell["tokens_in"], cell["tokens_out"]) == (25, 45)
    assert [len(request.turns) for request in teacher.asked] == [2] * 5, "neither can be repaired"


def test_a_round_has_no_more_requests_than_it_may(tmp_path: Path) -> None:
    teacher = Scripted({})
    assert len(instruct(tmp_path, teacher, rows=50, round=8)) == 50
    assert teacher.calls == [8] * 6 + [2]
    waiting = Scripted({})
    assert len(instruct(tmp_path / "dollars", waiting, **ONE_CELL, rows=50, round=8, dollars=1.0)) == 50
    assert waiting.calls == [1, *[8] * 6, 1], "the first one tells the price"


def test_a_free_teacher_has_no_limit_in_dollars(tmp_path: Path) -> None:
    assert len(instruct(tmp_path, Scripted({}, ("stop", "", 0)), **ONE_CELL, rows=9, dollars=0.001)) == 9


def test_the_dearest_answer_decides_what_fits_into_the_dollars(tmp_path: Path) -> None:
    teacher = Scripted({0: ("stop", "", 10 * PRICE)})
    with pytest.raises(kdtool.UsageError, match="has 2 of 9 rows after 2 requests, its limit of dollars"):
        instruct(tmp_path, teacher, **ONE_CELL, rows=9, dollars=0.02)


def test_free_refusals_do_not_lift_the_limit_in_dollars(tmp_path: Path) -> None:
    teacher = Scripted({0: ("refused", "", 0)})
    with pytest.raises(kdtool.UsageError, match="has 3 of 60 rows after 4 requests, its limit of dollars"):
        instruct(tmp_path, teacher, **ONE_CELL, rows=60, dollars=0.003)


def test_some_refusals_do_not_end_the_run(tmp_path: Path) -> None:
    teacher = Scripted({0: ("refused", "too busy", 0), 6: ("refused", "too busy", 0)})
    assert len(instruct(tmp_path, teacher, **ONE_CELL, rows=6)) == 6
    assert teacher.calls == [6, 1, 1], "all of the second round were refused"


def test_code_is_needed_where_a_task_has_any(tmp_path: Path) -> None:
    class Talking(Writer):
        def write(self, subject: str, language: str, *, tested: bool) -> str:
            return f"<instruction>Write it: {subject}</instruction>\n<response>It adds: {subject}</response>"

    rows = instruct(tmp_path, Talking(), **ONE_CELL, tasks=("explain", "generate"), rows=2, fewer=True)
    assert [row.meta["task"] for row in rows] == ["explain"]
    cells = {cell["cell"]: cell["rejected"] for cell in status(tmp_path)["cells"]}
    assert cells == {"python/easy/explain": {}, "python/easy/generate": {"no code in python": 4}}


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_tested_code_that_does_not_parse_is_repaired(tmp_path: Path) -> None:
    class Learning(Writer):
        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            self.code = "def add(x):\n    return x + 1" if len(request.turns) > 2 else "def add(x:\n    return"
            return super().answer(request)

    teacher = Learning()
    (row,) = instruct(tmp_path, teacher, **ONE_CELL, rows=1, tested=("python",), repairs=1)
    assert row.meta["repaired"] == "tests: python does not parse"
    assert "it does not parse: " in teacher.asked[-1].turns[-1][1]


def test_progress_is_the_number_of_accepted_rows(tmp_path: Path) -> None:
    listener = Listener()
    assert len(instruct(tmp_path, Writer(0.2), ("listener", listener), rows=60, round=30)) == 60
    assert listener.progress == sorted(listener.progress)
    assert listener.progress[-1] == 60


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_what_hangs_has_failed_and_an_error_is_cut(tmp_path: Path) -> None:
    class Failing(Writer):
        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            loud = "    raise ValueError('loud' * 2000)"
            self.code = "def add(x):\n" + ("    while True: pass" if len(request.turns) > 2 else loud)
            return super().answer(request)

    with pytest.raises(kdtool.UsageError, match=r"cannot be filled"):
        instruct(tmp_path, Failing(), **ONE_CELL, rows=1, tested=("python",), repairs=1, candidates=2, seconds=1)
    (cell,) = status(tmp_path)["cells"]
    assert cell["rejected"] == {"tests: ValueError": 1, "tests: no verdict within 1 s of processor time": 1}
    (rejected,) = tmp_path.glob("instruct/*/rejected.jsonl")
    errors = [json.loads(line)["error"] for line in rejected.read_text("utf-8").splitlines()]
    assert len(errors[0]) == 1000
    assert "loudloud" in errors[0]


@pytest.mark.skipif(bool(missing(("javascript",))), reason="the sandbox has no JavaScript here")
def test_tests_of_other_languages_run_too(tmp_path: Path) -> None:
    class Script(Writer):
        def __init__(self, result: int) -> None:
            super().__init__(
                tests=f"if (add(1) !== {result}) throw new Error('no');", code="function add(x) { return x + 1; }"
            )

    settings: dict[str, Any] = {
        "languages": ("javascript",),
        "difficulties": ("easy",),
        "rows": 1,
        "tested": ("javascript",),
    }
    assert len(instruct(tmp_path, Script(2), **settings)) == 1
    with pytest.raises(kdtool.UsageError, match="4 tests: "):
        instruct(tmp_path / "wrong", Script(3), **settings)


def test_a_repair_keeps_what_was_drawn_and_another_attempt_does_not(tmp_path: Path) -> None:
    (row,) = instruct(tmp_path, Repairing(), PARSING, **EASY, rows=1)
    (first,) = instruct(tmp_path / "first", Writer(code="def f(x):\n    return x"), PARSING, **EASY, rows=1)
    assert row.meta["topic"] == first.meta["topic"]
    (second,) = instruct(tmp_path / "second", Scripted({0: ("refused", "", 0)}), **ONE_CELL, rows=1)
    assert (second.meta["attempt"], second.meta["topic"] != first.meta["topic"]) == ("1", True)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_row_names_the_request_by_which_its_answer_is_stored(tmp_path: Path, temperature: float) -> None:
    teacher = Writer()
    rows = instruct(tmp_path, teacher, **ONE_CELL, rows=2, temperature=temperature)
    assert {row.meta["request"] for row in rows} == {
        teacher.answer_key(replace(request, id="any")) for request in teacher.asked
    }
    assert len({request.seed for request in teacher.asked}) == 2
    sampled = {teacher.answer_key(replace(request, seed=1)) for request in teacher.asked}
    assert ({row.meta["request"] for row in rows} == sampled) == (temperature == 0), "a greedy answer has no seed"


def test_remainders_decide_who_gets_the_rows_that_are_left() -> None:
    found = quotas(10, {"python": 4.4, "go": 3.3, "rust": 2.3}, {"easy": 1.0}, {"generate": 1.0})
    assert {cell.language: count for cell, count in found.items()} == {"python": 5, "go": 3, "rust": 2}
    tiny = quotas(1, {"python": 9.0, "go": 1.0}, {"easy": 1.0}, {"generate": 1.0})
    assert [(cell.language, count) for cell, count in tiny.items()] == [("python", 1)], "no cell without rows"


def test_marks_in_an_answer() -> None:
    tests = "<tests>\nSo:\n```py\nassert x\n```\n</tests>"
    text = f"</response><instruction>a</instruction>\n<response>b</response> and c</response>\n{tests}"
    assert read_parts(text, tested=True) == Parts("a", "b</response> and c", "assert x\n")
    assert read_parts("a" * 40 + "</instruction>", tested=False) == "no <instruction>"
    assert code_of("```Python\nx = 1\n```\n", "python") == "x = 1\n"


def test_the_newest_failed_answer_is_the_rejected_one(tmp_path: Path) -> None:
    class Slow(Repairing):
        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            found = super().answer(request)
            return (
                replace(found, text=found.text.replace("return x", "return x x")) if len(request.turns) == 4 else found
            )

    (pair,) = instruct(tmp_path, Slow(), PARSING, **EASY, rows=1, give="pairs")
    assert isinstance(pair.body, kdtool.Preference)
    assert "return x x" in pair.body.rejected
    assert pair.meta["repaired"] == "syntax: broken; syntax: broken"
    assert pair.meta["repaired_picodollars"] == str(2 * PRICE)


def test_an_answer_is_not_preferred_to_itself(tmp_path: Path) -> None:
    class Fickle(kdtool.Filter):
        def kdtool_filter(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
            return [None if example.meta.get("repairs") else "unkempt" for example in examples]

    class Stubborn(Writer):
        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            return replace(super().answer(replace(request, turns=request.turns[:2])), id=request.id)

    others = [("filters.syntax", Fickle(Fickle.Config()))]
    with pytest.raises(kdtool.UsageError, match="so there are no pairs"):
        instruct(tmp_path, Stubborn(), *others, **EASY, rows=1, give="pairs")


def test_a_part_of_a_request_counts_as_one() -> None:
    config = Instruct.Config(rows=3, candidates=1.5)
    assert [config.most_requests(rows) for rows in (1, 2, 3)] == [2, 3, 5]


def test_ten_rejected_candidates_of_each_reason_are_kept_and_rows_until_all_are_there(tmp_path: Path) -> None:
    class Dull(kdtool.Filter):
        def kdtool_filter(self, run: kdtool.RunInfo, examples: Any) -> list[str | None]:
            return ["dull" if example.id.endswith("/0") else None for example in examples]

    others, settings = [("filters.dull", Dull(Dull.Config()))], {**ONE_CELL, "rows": 6}
    with pytest.raises(kdtool.UsageError, match="19 dull: dull"):
        instruct(tmp_path, Writer(), *others, **settings)
    (rejected,), (rows,) = (tmp_path.glob(f"instruct/*/{name}.jsonl") for name in ("rejected", "rows"))
    assert len(rejected.read_text("utf-8").splitlines()) == 10
    assert len(rows.read_text("utf-8").splitlines()) == 5
    instruct(tmp_path, Writer(), **settings)
    assert not rows.exists()

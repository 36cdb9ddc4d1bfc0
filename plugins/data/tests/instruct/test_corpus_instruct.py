"""Instruction data: the suite of corpora, exact quotas with a teacher that fails, repairs, limits, and what is recorded."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import kdtool
import pydantic
import pytest
from instruct_stand_ins import (
    BROKEN,
    ONE_CELL,
    PRICE,
    RIGHT,
    WRONG,
    Rule,
    Seeds,
    Writer,
    does_not_parse,
    instruct,
    no_twos,
    rejected_lines,
    repaired_from,
    run_with,
    status,
    unkempt_until_repaired,
)
from kdtool_data.instruct import Instruct
from kdtool_data.instruct.candidates import Parts, code_of, read_parts
from kdtool_data.instruct.settings import LANGUAGES, TASKS
from kdtool_measuring import Priced
from kdtool_programs import missing
from kdtool_testing import CorpusConformance, make_run

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


class TestInstruct(CorpusConformance):
    component = Instruct
    entry_point = "instruct"
    settings: ClassVar = {"rows": 12, "tasks": ["generate", "debug"], "candidates": 8}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Writer(0.3), "filters.twos": no_twos()}


def test_each_cell_has_exactly_its_rows_with_a_teacher_that_fails(tmp_path: Path) -> None:
    teacher, filter_ = Writer(0.2), no_twos()
    rows = instruct(tmp_path, teacher, ("filters.twos", filter_), rows=6 * 3 * 4 * 5, tasks=TASKS[:4], round=64)
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
    one = instruct(tmp_path / "one", Writer(0.4), rows=60, round=7)
    assert one == instruct(tmp_path / "other", Writer(0.4, shuffled=False), rows=60, round=7)


def test_a_row_says_where_it_comes_from(tmp_path: Path) -> None:
    row, *_ = instruct(tmp_path, Writer(), **ONE_CELL, rows=1)
    assert isinstance(row.body, kdtool.Messages)
    assert [role for role, _ in row.body.turns] == ["user", "assistant"]
    assert row.body.turns[0][1].startswith("Write it: ")
    assert (row.id, row.language, row.source) == ("python/easy/generate/0", "python", "instructions by teacher")
    assert row.meta.keys() == {
        "teacher", "model", "template", "request", "difficulty", "task", "topic", "attempt", "tokens_in",
        "tokens_out", "picodollars",
    }  # fmt: skip
    assert row.meta["picodollars"] == str(PRICE)
    assert row.meta["template"].startswith("generate@")
    completion, *_ = instruct(tmp_path, Writer(), languages=("python",), rows=1, form="completion")
    assert isinstance(completion.body, kdtool.Completion)


def test_a_cell_that_cannot_be_filled_says_which_filter_rejected_what(tmp_path: Path) -> None:
    expected = (
        r"instruct\.candidates: 3 of 18 cells cannot be filled: go/easy/generate has 0 of 2 rows after 6 requests, its "
        r"limit of candidates \(6 dull: too dull\).*raise candidates or dollars"
    )
    dull = ("filters.dull", Rule(lambda example: "too dull" if example.language == "go" else None))
    with pytest.raises(kdtool.UsageError, match=expected):
        instruct(tmp_path, Writer(), dull, rows=36, candidates=3)
    assert status(tmp_path)["state"] == "interrupted"
    rows = instruct(tmp_path / "fewer", Writer(), dull, rows=36, candidates=3, fewer=True)
    assert Counter(row.language for row in rows) == dict.fromkeys(set(LANGUAGES) - {"go"}, 6)
    lines = rejected_lines(tmp_path / "fewer")
    assert {(line["cell"].partition("/")[0], line["reason"]) for line in lines} == {("go", "dull: too dull")}
    assert all("<instruction>" in line["answer"] for line in lines)


@pytest.mark.parametrize(
    ("script", "dollars", "rows", "requests", "spent"),
    [
        ({}, 0.003, 3, 3, 3),
        ({}, 0.0105, 10, 10, 10),
        ({0: ("stop", "", 10 * PRICE)}, 0.02, 2, 2, 11),
        ({0: ("refused", "", 0)}, 0.003, 3, 4, 3),
    ],
    ids=["equal prices", "a part of an answer", "the dearest answer decides", "free refusals"],
)
def test_a_cell_stays_within_its_dollars(
    tmp_path: Path, script: Any, dollars: float, rows: int, requests: int, spent: int
) -> None:
    with pytest.raises(
        kdtool.UsageError, match=f"has {rows} of 60 rows after {requests} requests, its limit of dollars"
    ):
        instruct(tmp_path, Writer(script=script, shuffled=False), **ONE_CELL, rows=60, dollars=dollars)
    (cell,) = status(tmp_path)["cells"]
    assert cell["picodollars"] == spent * PRICE <= dollars * 10**12


def test_dollars_that_suffice_and_a_free_teacher_are_no_limit(tmp_path: Path) -> None:
    assert len(instruct(tmp_path / "enough", Writer(), languages=("python",), rows=20, dollars=1.0)) == 20
    free = Writer(script=dict.fromkeys(range(9), ("stop", "", 0)))
    assert len(instruct(tmp_path / "free", free, **ONE_CELL, rows=9, dollars=0.001)) == 9


def test_a_round_has_no_more_requests_than_it_may(tmp_path: Path) -> None:
    teacher, priced = Writer(), Writer()
    assert len(instruct(tmp_path, teacher, rows=50, round=8)) == 50
    assert teacher.calls == [8] * 6 + [2]
    assert len(instruct(tmp_path / "dollars", priced, **ONE_CELL, rows=50, round=8, dollars=1.0)) == 50
    assert priced.calls == [1, *[8] * 6, 1], "the first one tells the price"


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


def test_refused_and_cut_off_answers_are_rejected_whatever_they_hold(tmp_path: Path) -> None:
    teacher = Writer(script={0: ("refused", "", 0), 1: ("length", "", PRICE)})
    assert len(instruct(tmp_path, teacher, **ONE_CELL, rows=3, repairs=1)) == 3
    (cell,) = status(tmp_path)["cells"]
    assert cell["rejected"] == {"refused": 1, "cut off at 4096 tokens": 1}
    assert (cell["tokens_in"], cell["tokens_out"]) == (25, 45)
    assert [len(request.turns) for request in teacher.asked] == [2] * 5, "neither can be repaired"


@pytest.mark.parametrize("refused", [range(6), (0, 6)], ids=["all of the first round", "some, and all of the second"])
def test_a_teacher_that_refuses_all_of_the_first_round_ends_the_run(tmp_path: Path, refused: Iterable[int]) -> None:
    teacher = Writer(script=dict.fromkeys(refused, ("refused", "no room", 0)))
    if 1 in refused:
        with pytest.raises(kdtool.UsageError, match=r"teacher refused each of 6 requests \(no room\)"):
            instruct(tmp_path, teacher, **ONE_CELL)
        assert teacher.calls == [6]
    else:
        assert len(instruct(tmp_path, teacher, **ONE_CELL)) == 6
        assert teacher.calls == [6, 1, 1]


def test_code_is_needed_where_a_task_has_any(tmp_path: Path) -> None:
    class Talking(Writer):
        def answer(self, request: kdtool.Request) -> kdtool.TextAnswer:
            found = super().answer(request)
            return replace(found, text=found.text.replace("```", ""))

    rows = instruct(tmp_path, Talking(), **ONE_CELL, tasks=("explain", "generate"), rows=2, fewer=True)
    assert [row.meta["task"] for row in rows] == ["explain"]
    cells = {cell["cell"]: cell["rejected"] for cell in status(tmp_path)["cells"]}
    assert cells == {"python/easy/explain": {}, "python/easy/generate": {"no code in python": 4}}


@needs_bubblewrap
@pytest.mark.parametrize(
    ("first", "rejected", "error"),
    [
        (WRONG, "AssertionError", "its tests fail: AssertionError"),
        (BROKEN, "python does not parse", "it does not parse: "),
    ],
    ids=["wrong", "broken"],
)
def test_what_fails_its_tests_is_repaired_with_the_error(tmp_path: Path, first: str, rejected: str, error: str) -> None:
    teacher = Writer(code=repaired_from(first))
    settings: dict[str, Any] = {**ONE_CELL, "rows": 3, "tested": ("python",)}
    rows = instruct(tmp_path, teacher, **settings, repairs=2)
    assert [(row.meta["repairs"], row.meta["repaired"]) for row in rows] == [("1", f"tests: {rejected}")] * 3
    assert all("x + 1" in kdtool.parts_of(row.body)[1] for row in rows)
    assert rows[0].meta["tests"] == "assert add(1) == 2"
    assert len(teacher.asked) == 6
    last = teacher.asked[-1].turns
    assert [role for role, _ in last] == ["system", "user", "assistant", "user"]
    assert error in last[-1][1]
    with pytest.raises(kdtool.UsageError, match=f"12 tests: {rejected}"):
        instruct(tmp_path / "unrepaired", Writer(code=first), **settings)


@needs_bubblewrap
def test_what_hangs_has_failed_and_an_error_is_cut(tmp_path: Path) -> None:
    loud, hanging = "def add(x):\n    raise ValueError('loud' * 2000)", "def add(x):\n    while True: pass"
    settings: dict[str, Any] = {**ONE_CELL, "tested": ("python",), "repairs": 1, "candidates": 2, "seconds": 1}
    with pytest.raises(kdtool.UsageError, match=r"cannot be filled"):
        instruct(tmp_path, Writer(code=repaired_from(loud, hanging)), rows=1, **settings)
    (cell,) = status(tmp_path)["cells"]
    assert cell["rejected"] == {"tests: ValueError": 1, "tests: no verdict within 1 s of processor time": 1}
    error = rejected_lines(tmp_path)[0]["error"]
    assert len(error) == 1000
    assert "loudloud" in error


@pytest.mark.skipif(bool(missing(("javascript",))), reason="the sandbox has no JavaScript here")
def test_tests_of_other_languages_run_too(tmp_path: Path) -> None:
    def script(result: int) -> Writer:
        tests = f"if (add(1) !== {result}) throw new Error('no');"
        return Writer(tests=tests, code="function add(x) { return x + 1; }")

    settings: dict[str, Any] = {"languages": ("javascript",), "difficulties": ("easy",), "tested": ("javascript",)}
    assert len(instruct(tmp_path, script(2), **settings, rows=1)) == 1
    with pytest.raises(kdtool.UsageError, match="4 tests: "):
        instruct(tmp_path / "wrong", script(3), **settings, rows=1)


def test_a_filter_s_rejection_is_repaired_where_the_recipe_says_so(tmp_path: Path) -> None:
    fussy = ("filters.fussy", unkempt_until_repaired())
    rows = instruct(tmp_path, Writer(), fussy, rows=6, repairs=1, repaired=("fussy",))
    assert {row.meta["repairs"] for row in rows} == {"1"}
    with pytest.raises(kdtool.UsageError, match="fussy: unkempt"):
        instruct(tmp_path / "other", Writer(), fussy, rows=6, repairs=1)


def test_a_row_without_a_verdict_is_replaced_and_not_repaired(tmp_path: Path) -> None:
    teacher, verdicts = Writer(), iter(["no verdict", "unkempt"])
    silent = ("filters.silent", Rule(lambda _: next(verdicts, None)))
    assert len(instruct(tmp_path, teacher, silent, **ONE_CELL, rows=2, repairs=1, repaired=("silent",))) == 2
    assert sorted(len(request.turns) for request in teacher.asked) == [2, 2, 2, 4], "one repair, of what was judged"


def test_seeds_are_pieces_of_the_first_training_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def examples() -> Iterator[kdtool.Example]:
        for split in ("test", "train", "train"):
            text = "\n".join(f"{split} = {line}" for line in range(40))
            yield kdtool.Example(split, kdtool.Text(text), split=split)
        raise AssertionError("read further than needed")

    monkeypatch.setattr("kdtool_data.instruct.requests._SEEDS", 2)
    teacher = Writer()
    instruct(tmp_path, teacher, ("corpora.seeds", Seeds(examples)), rows=20, seeds="corpora.seeds")
    assert {request.turns[1][1].count("train = ") for request in teacher.asked} == {15}
    held_out = Seeds(lambda: iter([kdtool.Example("a", kdtool.Text("x"), split="test")]))
    with pytest.raises(kdtool.UsageError, match=r"instruct\.seeds: the corpus has no training examples"):
        instruct(tmp_path / "none", Writer(), ("corpora.seeds", held_out), seeds="corpora.seeds")


def test_seeds_inspire_and_are_not_learned(tmp_path: Path) -> None:
    seeds = Seeds(lambda: (kdtool.Example(f"{n}", kdtool.Text(f"seed_number_{n} = '\x0c\u2028'")) for n in range(5)))
    teacher = Writer()
    rows = instruct(tmp_path, teacher, ("corpora.seeds", seeds), rows=60, seeds="corpora.seeds")
    asked = "".join(request.turns[1][1] for request in teacher.asked)
    assert all(f"seed_number_{number} = '\x0c\u2028'" in asked for number in range(5))
    assert "= '\n" not in asked
    assert not any("seed_number" in text for row in rows for text in kdtool.parts_of(row.body))


def test_marks_and_fences_in_an_answer() -> None:
    tests = "<tests>\nSo:\n```py\nassert x\n```\n</tests>"
    text = f"</response><instruction>a</instruction>\n<response>b</response> and c</response>\n{tests}"
    assert read_parts(text, tested=True) == Parts("a", "b</response> and c", "assert x\n")
    assert read_parts("a" * 40 + "</instruction>", tested=False) == "no <instruction>"
    text = "One:\n```Python\nx = 1\n```\nand\n```\ny = 2\n```\nnot\n```rust\nfn f() {}\n```\n"
    assert code_of(text, "python") == "x = 1\n\ny = 2\n"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"tasks": ("riddle",)}, "Input should be 'generate'"), ({"give": "pairs"}, "set repairs")],
)
def test_settings_that_cannot_be_drawn_from_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=expected):
        Instruct.Config.model_validate({"rows": 1} | settings)


def test_the_account_sums_all_cells_and_shows_some_of_each_rejection(tmp_path: Path) -> None:
    teacher = Writer(0.5)
    rows = instruct(tmp_path, teacher, rows=40, languages=("python", "go"))
    corpus = Instruct(Instruct.Config(rows=40, tasks=("generate",), languages=("python", "go")))
    account = corpus.kdtool_account(run_with(tmp_path, teacher))
    assert account is not None
    assert (account["rows"], account["requests"]) == (len(rows), len(teacher.asked))
    paid = {teacher.answer_key(one): teacher.answer(one).picodollars for one in teacher.asked}
    assert account["picodollars"] == sum(paid.values()), "the same request is paid for once"
    assert account["tokens_in"] == 5 * len(paid)
    assert sum(account["rejected"].values()) == len(teacher.asked) - len(rows)
    shown = Counter(one["reason"] for one in account["samples"])
    assert shown.keys() == account["rejected"].keys()
    assert set(shown.values()) == {2}
    assert any("<instruction>" in one["text"] for one in account["samples"])
    assert corpus.kdtool_account(run_with(tmp_path / "other", teacher)) is None


PARSING = ("filters.syntax", Rule(does_not_parse))
EASY: dict[str, Any] = {**ONE_CELL, "repairs": 2}


def test_a_repaired_answer_and_the_failed_one_are_a_pair(tmp_path: Path) -> None:
    teacher = Writer(code=repaired_from(BROKEN))
    pairs = instruct(tmp_path, teacher, PARSING, **EASY, rows=5, give="pairs")
    assert len(pairs) == 5
    for pair in pairs:
        assert isinstance(pair.body, kdtool.Preference)
        assert pair.body.prompt.startswith("Write it: ")
        assert pair.body.prompt.endswith("\n\n")
        assert "return x" in pair.body.completion
        assert "def add(x:" in pair.body.rejected
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


@pytest.mark.parametrize(
    ("change", "tested"),
    [(("Write it: ", "Write this instead: "), ()), (("add(1)", "add(1 + 0)"), ("python",))],
    ids=["task", "tests"],
)
def test_a_repair_that_changes_the_task_or_the_tests_makes_no_pair(
    tmp_path: Path, change: tuple[str, str], tested: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdtool_data.instruct import generation

    monkeypatch.setattr(generation, "run_tests", lambda run, config, file, candidates: candidates)
    settings: dict[str, Any] = {**EASY, "rows": 2, "give": "pairs", "tested": tested}
    with pytest.raises(
        kdtool.UsageError, match=r"instruct\.give: no accepted row repairs a failed answer .* there are no"
    ):
        instruct(tmp_path, Writer(code=repaired_from(BROKEN), change=change), PARSING, **settings)
    assert len(instruct(tmp_path / "kept", Writer(code=repaired_from(BROKEN)), PARSING, **settings)) == 2


def test_the_newest_failed_answer_is_the_rejected_one(tmp_path: Path) -> None:
    code = {2: BROKEN, 4: "def add(x):\n    return x x", 6: RIGHT}
    writer = Writer(code=lambda request: code[len(request.turns)])
    (pair,) = instruct(tmp_path, writer, PARSING, **EASY, rows=1, give="pairs")
    assert isinstance(pair.body, kdtool.Preference)
    assert "return x x" in pair.body.rejected
    assert pair.meta["repaired"] == "syntax: broken; syntax: broken"
    assert pair.meta["repaired_picodollars"] == str(2 * PRICE)


def test_an_answer_is_not_preferred_to_itself(tmp_path: Path) -> None:
    fickle = ("filters.syntax", unkempt_until_repaired())
    with pytest.raises(kdtool.UsageError, match="so there are no pairs"):
        instruct(tmp_path, Writer(), fickle, **EASY, rows=1, give="pairs")


def test_a_repair_keeps_what_was_drawn_and_another_attempt_does_not(tmp_path: Path) -> None:
    (row,) = instruct(tmp_path, Writer(code=repaired_from(BROKEN)), PARSING, **EASY, rows=1)
    (first,) = instruct(tmp_path / "first", Writer(), PARSING, **EASY, rows=1)
    assert row.meta["topic"] == first.meta["topic"]
    (second,) = instruct(tmp_path / "second", Writer(script={0: ("refused", "", 0)}), **ONE_CELL, rows=1)
    assert (second.meta["attempt"], second.meta["topic"] != first.meta["topic"]) == ("1", True)


@pytest.mark.parametrize(
    ("label", "expected"), [("", {"filters.twos"}), ("prefer", {"train.prefer.filters.twos"}), ("x", {"filters.twos"})]
)
def test_a_phase_s_own_filters_judge_its_rows_alone(tmp_path: Path, label: str, expected: set[str]) -> None:
    filters = {name: no_twos() for name in ("filters.twos", "train.prefer.filters.twos", "train.other.filters.twos")}
    run = make_run(tmp_path, {"teacher": Writer(), **filters}, label=label)
    list(Instruct(Instruct.Config(rows=6, tasks=("generate",))).kdtool_examples(run))
    assert {name for name, filter_ in filters.items() if filter_.judged} == expected

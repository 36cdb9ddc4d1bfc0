"""Verified answers as a corpus: the suite, what is learned from which answers, and that nothing is asked or run twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
from kdtool_data.verified import Verified
from kdtool_programs import problem_with_tests
from kdtool_testing import CorpusConformance, make_run

RIGHT, WRONG, SLOW = "def {}(x):\n    return x + 1\n", "def {}(x):\n    return x - 1\n", "def {}(x):\n    while 1: 0\n"
NAMES = ("inc", "succ", "next_one")


def problem(name: str, **changes: Any) -> kdtool.Example:
    tests = [f"assert {name}(1) == 2", f"assert {name}(0) == one"]
    given_ones: dict[str, Any] = {
        "id": name,
        "body": kdtool.Completion(f'"""\nAdd one.\n{tests[0]}\n"""\n', RIGHT.format(name)),
        "language": "python",
        "licence": "CC-BY-4.0",
        "source": "ours",
        "meta": {"tests": json.dumps(tests), "setup": "one = 1"},
    }
    return kdtool.Example(**given_ones | changes)


class Problems(kdtool.Corpus):
    """Three problems to learn from, and one that is held out."""

    def __init__(self, examples: Sequence[kdtool.Example] | None = None) -> None:
        super().__init__(self.Config())
        held_out = problem("held_out", split="test")
        self.examples = [problem(NAMES[0]), held_out, *map(problem, NAMES[1:])] if examples is None else examples

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        yield from self.examples


class Writer(kdtool.Teacher):
    """Writes programs, the last request's first: `says` are the answers to each problem. Keeps what it was asked."""

    offers = frozenset({"text"})

    def __init__(self, says: Sequence[str] = (WRONG, RIGHT), finish: Mapping[str, Any] | None = None) -> None:
        super().__init__(self.Config())
        self.says, self.finish = says, finish or {}
        self.asked: list[kdtool.Request] = []

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for request in list(requests)[::-1]:
            self.asked.append(request)
            name, _, number = request.id.partition("#")
            text = self.says[int(number) % len(self.says)].format(name)
            yield kdtool.TextAnswer(request.id, text, self.finish.get(request.id, "stop"), 3, 4)


def verified(
    folder: Path, teacher: kdtool.Teacher, examples: Sequence[kdtool.Example] | None = None, **settings: Any
) -> list[kdtool.Example]:
    corpus = Verified(Verified.Config.model_validate({"corpus": "corpora.problems", "samples": 4} | settings))
    return list(corpus.kdtool_examples(run_with(folder, teacher, examples)))


def run_with(folder: Path, teacher: kdtool.Teacher, examples: Sequence[kdtool.Example] | None = None) -> kdtool.RunInfo:
    return make_run(folder, {"teacher": teacher, "corpora.problems": Problems(examples)}, say=print)


@pytest.fixture
def sandbox() -> None:
    """Skip where bubblewrap is not installed, and fail there if it should be."""
    if shutil.which("bwrap") is None:
        why = "bubblewrap is not installed: no generated program was run"
        assert not os.environ.get("KDTOOL_NEEDS_SANDBOX"), f"{why}, and KDTOOL_NEEDS_SANDBOX is set"
        pytest.skip(why)


runs_programs = pytest.mark.usefixtures("sandbox")


@runs_programs
class TestVerified(CorpusConformance):
    component = Verified
    entry_point = "verified"
    settings: ClassVar = {"corpus": "corpora.problems"}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Writer(), "corpora.problems": Problems()}


@runs_programs
def test_each_distinct_answer_that_passed_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = RIGHT.replace("x + 1", "1 + x")
    found = verified(tmp_path, Writer([WRONG, RIGHT, RIGHT, other]))
    assert [(example.id, example.split) for example in found] == [
        ("inc#1", "train"), ("inc#3", "train"), ("held_out", "test"),
        ("succ#1", "train"), ("succ#3", "train"), ("next_one#1", "train"), ("next_one#3", "train"),
    ]  # fmt: skip
    first, prompt = found[0], '"""\nAdd one.\nassert inc(1) == 2\n"""\n'
    assert first.body == kdtool.Completion(prompt, RIGHT.format("inc"))
    assert (first.language, first.licence, first.source) == ("python", "CC-BY-4.0", "verified answers of teacher")
    assert first.meta == {"teacher": "teacher", "passed": "3 of 4", "prompt_source": "ours"}
    assert found[2] == problem("held_out", split="test"), "what is held out stays as it is"
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "9 of 12 answers of teacher passed, to 3 of 3 problems (others: 3 AssertionError): 6 examples"
    assert [example.id for example in verified(tmp_path, Writer([RIGHT, other]), keep=1, limit=2)] == [
        "inc#0", "held_out", "succ#0",
    ]  # fmt: skip


@runs_programs
def test_the_account_holds_all_answers_and_why_programs_failed(tmp_path: Path) -> None:
    corpus = Verified(Verified.Config(corpus="corpora.problems", samples=4))
    run = run_with(tmp_path, Writer([WRONG, RIGHT, RIGHT, RIGHT]))
    assert corpus.kdtool_account(run) is None
    rows = [example for example in corpus.kdtool_examples(run) if example.split == "train"]
    assert corpus.kdtool_account(run) == {
        "requests": 12, "rows": len(rows), "tokens_in": 36, "tokens_out": 48, "picodollars": 0,
        "rejected": {"AssertionError": 3},
    }  # fmt: skip


@runs_programs
def test_pairs_are_of_one_that_passed_and_one_that_failed(tmp_path: Path) -> None:
    found = verified(tmp_path, Writer([SLOW, RIGHT, WRONG, RIGHT + "\n\n"]), give="pairs", limit=1, seconds=0.5)
    pair, _ = found
    assert pair.id == "inc#1>0"
    assert isinstance(pair.body, kdtool.Preference)
    assert (pair.body.completion, pair.body.rejected) == (RIGHT.format("inc"), SLOW.format("inc"))
    assert (pair.meta["passed"], pair.meta["rejected"]) == ("2 of 4", "no verdict within 0.5 s of processor time")


@runs_programs
@pytest.mark.parametrize("finish", ["length", "refused"])
def test_what_was_cut_off_or_refused_is_neither_run_nor_learned(tmp_path: Path, finish: str) -> None:
    ends = {f"{name}#{number}": finish for name in NAMES for number in (0, 1)}
    found = verified(tmp_path, Writer([RIGHT, WRONG, RIGHT, "  \n"], ends))
    assert [example.id for example in found if example.split == "train"] == [f"{name}#2" for name in NAMES]
    (file,) = tmp_path.glob("verified/*.verdicts.jsonl")
    ran = {json.loads(line)["id"] for line in file.read_text("utf-8").splitlines()}
    assert ran == {f"{name}#{which}" for name in NAMES for which in ("solution", 2)}


def unsolvable(name: str) -> kdtool.Example:
    return problem(name, meta={"tests": json.dumps([f"import nowhere\nassert {name}(1) == 2"])})


@runs_programs
def test_problems_whose_own_solution_fails_here_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, again = Writer(), Writer()
    examples = [unsolvable("inc"), problem("succ"), problem("held_out", split="test")]
    found = verified(tmp_path, teacher, examples, give="pairs", keep=1)
    assert [example.id for example in found] == ["succ#1>0", "held_out"]
    assert {one.id.partition("#")[0] for one in teacher.asked} == {"succ"}
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if not line.startswith("time limits")]  # as a slow machine says
    assert said[0] == "dropped 1 of 2 problems: the reference solution fails here (1 ModuleNotFoundError)"
    assert "to 1 of 1 problems" in said[-1]
    (file,) = tmp_path.glob("verified/*.verdicts.jsonl")
    ran = file.read_text("utf-8")
    assert '"inc#solution"' in ran
    assert verified(tmp_path, again, examples, give="pairs", keep=1) == found
    assert (again.asked, file.read_text("utf-8")) == ([], ran)


def test_problems_that_none_can_solve_here_are_an_error_before_anybody_is_asked(tmp_path: Path, sandbox: None) -> None:
    teacher = Writer()
    with pytest.raises(kdtool.UsageError, match=r"pass none of the tests of corpora\.problems here \(2 ModuleNotFound"):
        verified(tmp_path, teacher, [unsolvable("inc"), unsolvable("succ")])
    assert teacher.asked == []


def test_nothing_that_passes_is_an_error_with_the_commonest_reasons(tmp_path: Path, sandbox: None) -> None:
    teacher = Writer([WRONG, WRONG, "import nowhere\n", "def"], {"inc#3": "length"})
    with pytest.raises(kdtool.UsageError, match=r"0 of 12 answers .* 0 of 3 problems") as caught:
        verified(tmp_path, teacher)
    reasons = "6 AssertionError, 3 ModuleNotFoundError, 2 SyntaxError, 1 cut off by max_tokens"
    assert f"(others: {reasons}); raise samples" in str(caught.value)


def test_answers_that_all_passed_give_no_pair(tmp_path: Path, sandbox: None) -> None:
    with pytest.raises(
        kdtool.UsageError, match=r"12 of 12 answers .*passed.*no problem has an answer that passed and one"
    ):
        verified(tmp_path, Writer([RIGHT]), give="pairs")


@runs_programs
def test_chat_is_asked_in_turns_and_its_first_block_of_code_is_learned(tmp_path: Path) -> None:
    teacher = Writer([f"Here it is:\n```python\n{RIGHT}```\nand so on\n```\nnot this\n```"])
    (found, _) = verified(tmp_path, teacher, form="chat", samples=1, limit=1)
    assert found.body == kdtool.Completion('"""\nAdd one.\nassert inc(1) == 2\n"""\n', RIGHT.format("inc"))
    (request,) = teacher.asked
    ((role, text),) = request.turns
    assert (role, request.prompt, request.stop) == ("user", "", ())
    assert text.endswith(found.body.prompt)


@runs_programs
def test_a_solution_that_goes_on_behind_its_prompt_is_asked_for_as_such(tmp_path: Path) -> None:
    body = kdtool.Completion('def inc(x):\n    """Add one."""\n', "    return 1 + x\n")
    (found,) = verified(tmp_path, Writer(["    return x + 1\n", "    return x\n"]), [problem("inc", body=body)])
    assert found.body == kdtool.Completion(body.prompt, "    return x + 1\n")


@runs_programs
def test_each_request_carries_the_settings_and_a_seed_of_its_own(tmp_path: Path) -> None:
    teacher = Writer()
    verified(tmp_path, teacher, temperature=0.4, max_tokens=99)
    assert {(one.temperature, one.max_tokens) for one in teacher.asked} == {(0.4, 99)}
    assert len({one.seed for one in teacher.asked}) == len(teacher.asked) == 12
    assert "held_out" not in {one.id.partition("#")[0] for one in teacher.asked}
    again = Writer()
    verified(tmp_path / "again", again, temperature=0.4, max_tokens=99)
    assert again.asked == teacher.asked


_SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import kdtool_measuring
from test_corpus_verified import RIGHT, WRONG, Writer, verified
noted = Path(sys.argv[2]) / "noted"
def note(name):
    with noted.open("a") as file:
        file.write(name + "\\n")
    time.sleep(0.2)
class Slow(Writer):
    def kdtool_answer(self, requests):
        for answer in super().kdtool_answer(requests):
            yield answer
            note("asked " + answer.id)
add = kdtool_measuring.Journal.add
def noting(journal, record):
    add(journal, record)
    if hasattr(record, "status"):
        note("ran " + record.id)
kdtool_measuring.Journal.add = noting
verified(Path(sys.argv[2]), Slow([WRONG, RIGHT]), samples=2)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_a_killed_process_asks_and_runs_nothing_twice(tmp_path: Path, sandbox: None, kill_and_resume: Any) -> None:
    expected = [f"{what} {name}#{number}" for what in ("asked", "ran") for name in NAMES for number in (0, 1)]
    expected += [f"ran {name}#solution" for name in NAMES]
    assert sorted(kill_and_resume(_SLOW, tmp_path / "noted", (2, 5, 11))) == sorted(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"body": kdtool.Text("x = 1\n")}, "is not a prompt with a completion"),
        ({"language": "rust"}, "is in rust"),
        ({"meta": {}}, "has no tests"),
        ({"meta": {"tests": "assert"}}, "has tests that are not JSON"),
        ({"meta": {"tests": '["assert other(1)"]'}}, "tests that use nothing of its solution"),
        ({"body": kdtool.Completion("p", "def inc(\0")}, "or one of the two does not parse"),
    ],
)
def test_examples_that_are_no_problems_are_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(
        kdtool.UsageError, match=rf"verified\.corpus: 'inc' of ours .*{message}.*in the format of the corpus mbpp"
    ):
        problem_with_tests(problem("inc", **changes), "verified.corpus")


def test_a_corpus_without_problems_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"corpora\.problems contains no problem to learn from"):
        verified(tmp_path, Writer(), [problem("inc", split="test")])


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0}, {"samples": 1, "give": "pairs"}, {"corpus": ""}, {"give": "failing"}]
)
def test_settings_that_cannot_give_anything_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Verified.Config.model_validate_json(json.dumps({"corpus": "corpora.problems", **wrong}), strict=True)


def test_a_missing_sandbox_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (lacks,) = Verified(Verified.Config(corpus="corpora.problems")).kdtool_check(make_run(tmp_path), "start")
    assert "bubblewrap" in lacks

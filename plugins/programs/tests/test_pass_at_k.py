"""The estimator against counting all draws, and samples that are asked for once."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar, Literal

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_programs import Form, Module, PassAtK, Problem, Program, Sandbox, Step, Task, pass_at_k, verdicts_of
from kdtool_programs.problems import digest_of
from kdtool_programs.samples import Sample, collect_samples
from kdtool_testing import ByteTokenizer, OneRuntime, ScriptedRuntime, make_run
from kdtool_testing.sandbox import sandbox_is_there

SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)


@given(st.integers(1, 8), st.data())
def test_it_is_the_share_of_draws_in_which_one_passes(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(mean(any(draw) for draw in draws))


def test_many_samples_do_not_overflow() -> None:
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4)
    assert pass_at_k(10_000, 5_000, 100) == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_what_cannot_be_estimated_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="cannot be estimated"):
        pass_at_k(n, c, k)


def add(name: str = "add") -> Problem:
    prompt = f"def {name}(a, b):\n"

    def module(before: str, code: str) -> Module:
        return Module(before + code, f"assert {name}(2, 3) == 5\nassert {name}(-1, 1) == 0", (name,))

    return Problem(
        id=name,
        forms={"base": Form((), prompt, ("\ndef",)), "chat": Form((("user", "Add."),), "```python\n", ("\n```",))},
        continued=lambda code: module(prompt, code),
        whole=lambda code: module("", code),
        solution="    return a + b\n",
    )


def test_several_samples_need_a_temperature_and_give_the_usual_values_of_k() -> None:
    with pytest.raises(ValueError, match="several samples at temperature 0"):
        adding(samples=3)
    assert [adding(samples=n, temperature=0.8).config.k for n in (1, 10, 200)] == [[1], [1, 10], [1, 10, 100, 200]]


def answering(most: int | None = None) -> ScriptedRuntime:
    """Return a runtime that answers right where the request's number is even, and dies after some answers."""
    return ScriptedRuntime(lambda request: f"    return a {'+-'[int(request.id.partition('#')[2]) % 2]} b\n", most)


class Adding(PassAtK):
    benchmark: ClassVar[str] = "adding"

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        return [add("add"), add("plus"), add("total")]


def adding(**settings: Any) -> Adding:
    return Adding(Adding.Config(**settings))


def run_with(folder: Path, runtime: kdtool.Runtime | None, said: list[str] | None = None) -> kdtool.RunInfo:
    return make_run(folder, {"any": OneRuntime(runtime)}, say=(said if said is not None else []).append)


def test_samples_are_asked_for_once_though_the_run_is_killed(tmp_path: Path) -> None:
    evaluator = adding(samples=4, temperature=0.5)
    dying, going_on = answering(most=5), answering()
    problems = evaluator.problems(run_with(tmp_path, dying))
    with pytest.raises(KeyboardInterrupt):
        collect_samples(run_with(tmp_path, dying), SUBJECT, problems, evaluator.config, evaluator.benchmark)
    (file,) = tmp_path.glob("*.samples.jsonl")
    with file.open("ab") as half:
        half.write(b'{"id": "half writ')
    run = run_with(tmp_path, going_on)
    found = collect_samples(run, SUBJECT, evaluator.problems(run), evaluator.config, evaluator.benchmark)
    assert found is not None
    assert [sample.id for sample in found] == [f"{name}#{i}" for name in ("add", "plus", "total") for i in range(4)]
    asked = [request.id for request in (*dying.asked, *going_on.asked)]
    assert len(asked) == len(set(asked)) == 12
    assert len({request.seed for request in (*dying.asked, *going_on.asked)}) == 12
    assert all(isinstance(sample, Sample) for sample in found)


@pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")
def test_programs_are_run_and_scored(tmp_path: Path) -> None:
    evaluator = adding(samples=4, temperature=0.5)
    one, four = evaluator.kdtool_evaluate(run_with(tmp_path, answering()), [SUBJECT])
    assert (one.name, one.value, one.n) == ("adding.pass@1", 0.5, 3)
    assert (four.name, four.value) == ("adding.pass@4", 1)
    assert one.settings["sandbox"] == "isolated"
    (file,) = tmp_path.glob("*.verdicts.jsonl")
    verdicts = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert sum(verdict["status"] == "passed" for verdict in verdicts) == 6
    again = answering()
    assert [found.value for found in evaluator.kdtool_evaluate(run_with(tmp_path, again), [SUBJECT])] == [
        one.value,
        four.value,
    ]
    assert not again.asked


@pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")
def test_the_settings_tell_problems_from_others_with_their_ids(tmp_path: Path) -> None:
    def settings(problems: Sequence[Problem], **config: Any) -> list[dict[str, str]]:
        class Given(Adding):
            def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
                return problems

        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        given_one, run = Given(Given.Config(**config)), run_with(folder, answering())
        calls = [[SUBJECT], [replace(SUBJECT, name="control")]]
        return [dict(found.settings) for call in calls for found in given_one.kdtool_evaluate(run, call)]

    def tested(tests: str) -> Problem:
        return replace(add(), continued=lambda code: Module(f"def add(a, b):\n{code}", tests, ("add",)))

    plain = settings([add(), add("plus")])
    assert plain == settings([add(), add("plus")])
    assert plain[0] == plain[1]
    assert plain[0]["packages"] == "none"
    assert plain[0]["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    asked = replace(add(), forms={"base": Form((), "def add(c, d):\n", ("\ndef",))})
    others = [
        [add()],
        [add(), add("total")],
        [tested("assert add(1, 1) == 2")],
        [tested("assert add(1, 2) == 3")],
        [asked],
    ]
    digests = {settings(other)[0]["prompts and tests"] for other in others}
    assert len(digests | {plain[0]["prompts and tests"]}) == len(others) + 1
    assert all(len(digest) == 12 for digest in digests)
    assert settings([add()], form="chat")[0]["prompts and tests"] not in digests


def test_what_tells_problems_apart_is_the_same_on_every_machine() -> None:
    def compiled(folder: str) -> Problem:
        program = Program({"program.go": "tests"}, (Step((f"{folder}/go", "build"), "compiler"),))
        return replace(add(), continued=lambda code: program, whole=lambda code: program, language="go")

    assert digest_of([compiled("/usr/bin")], "base") == digest_of([compiled("/opt/go/bin")], "base")
    assert digest_of([compiled("/usr/bin")], "base") != digest_of([add()], "base")


class Refusing(ScriptedRuntime):
    """Finds every third prompt too long."""

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for number, found in enumerate(super().answer(requests)):
            yield found if number % 3 else kdtool.TextAnswer(found.id, "", "refused", 9, 0)


def empty_passes() -> Problem:
    """A problem that the empty program solves."""
    form = Form((("user", "Do nothing."),), "", ())
    return Problem(
        id="nothing",
        forms={"base": form, "chat": form},
        continued=lambda code: Module(f"{code}\ndone = True\n", "assert True", ()),
        whole=lambda code: Module(f"{code}\ndone = True\n", "assert True", ()),
        solution="",
    )


@pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")
@pytest.mark.parametrize("form", ["base", "chat"])
def test_prompts_without_an_answer_fail_and_are_counted_beside_the_score(
    tmp_path: Path, form: Literal["base", "chat"]
) -> None:
    class Nothing(Adding):
        def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
            return [empty_passes(), add("plus"), add("total")]

    said: list[str] = []
    evaluator = Nothing(Nothing.Config(form=form))
    score, beside = evaluator.kdtool_evaluate(
        run_with(tmp_path, Refusing(lambda _: "    return a + b\n"), said), [SUBJECT]
    )
    assert (score.name, score.value, score.n) == ("adding.pass@1", 2 / 3, 3)
    assert (beside.name, beside.value) == ("adding.unanswered", 1 / 3)
    assert "gave no answer to 1 of 3 prompts" in said[0]
    assert score.items is not None
    shown = [json.loads(line)["shown"] for line in score.items.read_text("utf-8").splitlines()]
    assert shown[0] == {"answer": "", "verdict": "no answer"}


@pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")
@pytest.mark.parametrize(
    ("usual", "packages", "shown", "missing"),
    [
        ((), None, "none", "numpy (3), pluggy (3)"),
        (("numpy", "not-installed"), None, "numpy", "pluggy (3)"),
        (("numpy",), (), "none", "numpy (3), pluggy (3)"),
        (("numpy",), ("pluggy", "numpy"), "pluggy numpy", ""),
    ],
)
def test_packages_are_shown_and_programs_that_lack_one_are_counted(
    tmp_path: Path, usual: tuple[str, ...], packages: tuple[str, ...] | None, shown: str, missing: str
) -> None:
    class Using(Adding):
        harness_packages = usual

    def answer(request: kdtool.Request) -> str:
        name = "numpy" if int(request.id.partition("#")[2]) % 2 else "pluggy"
        return f"    import {name}\n    return a + b\n"

    said: list[str] = []
    evaluator = Using(Using.Config(samples=2, temperature=0.5, packages=packages))
    assert list(evaluator.kdtool_check(run_with(tmp_path, answering()), "start")) == []
    score, _, *beside = evaluator.kdtool_evaluate(run_with(tmp_path, ScriptedRuntime(answer), said), [SUBJECT])
    versions = re.sub(r" [\d.]+(?:, )?", " ", score.settings["packages"]).strip()
    assert versions == shown
    assert [dict(one.texts) for one in beside] == ([{"modules": missing}] if missing else [])
    assert all(one.name == "adding.missing-modules" and one.value == missing.count("3") / 2 for one in beside)
    assert [missing in line for line in said if "missing module" in line] == [True] * bool(missing)


def test_a_package_that_is_not_installed_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match="packages: no-such: not installed"):
        adding(packages=("no-such",)).kdtool_check(run_with(tmp_path, answering()), "start")


class Templated(kdtool.Student):
    """Has a chat template, or an empty one: none."""

    def __init__(self, template: str) -> None:
        super().__init__(self.Config())
        self.template = template

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        tokenizer = ByteTokenizer()
        tokenizer.chat_fingerprint = self.template
        return tokenizer

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        raise AssertionError("it is known without the model")


def test_a_student_without_a_chat_template_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    without = make_run(tmp_path, {"student": Templated("")})
    with pytest.raises(
        kdtool.UsageError, match="form: chat needs a chat template, but the student's tokenizer has none"
    ):
        adding(form="chat").kdtool_check(without, "text")
    adding(form="base").kdtool_check(without, "text")
    adding(form="chat").kdtool_check(make_run(tmp_path, {"student": Templated("brackets")}), "text")
    adding(form="chat").kdtool_check(run_with(tmp_path, answering()), "text")  # nothing is trained


@pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")
def test_equal_programs_are_run_once_and_those_with_a_verdict_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = Sandbox.run

    def counting(self: Sandbox, tasks: Iterable[Task]) -> Iterator[Any]:
        given_ones = list(tasks)
        ran.extend(task.id for task in given_ones)
        return run(self, given_ones)

    monkeypatch.setattr(Sandbox, "run", counting)
    right, wrong = (add().continued(code) for code in ("    return a + b\n", "    return 1\n"))
    file, run_of_it = tmp_path / "verdicts.jsonl", make_run(tmp_path)
    first = verdicts_of(run_of_it, file, {"python": [Task("a", right), Task("b", wrong), Task("c", right)]})
    assert {name: verdict.has_passed for name, verdict in first.items()} == {"a": True, "b": False, "c": True}
    assert sorted(set(ran) - {"probe"}) == ["a", "b"]
    ran.clear()
    again = verdicts_of(run_of_it, file, {"python": [Task("a", right), Task("d", wrong)]})
    assert {name: verdict.has_passed for name, verdict in again.items()} == {"a": True, "d": False}
    assert sorted(set(ran) - {"probe"}) == ["d"]
    ran.clear()
    other = verdicts_of(run_of_it, file, {"python": [Task("a", right), Task("b", right)]})
    assert {name: verdict.has_passed for name, verdict in other.items()} == {"a": True, "b": True}
    assert sorted(set(ran) - {"probe"}) == ["b"], "the program of b is another one now"

"""The filter `judge`: the suite of filters, verdicts at the edge, what is asked and how often, and its record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
from kdtool_data.judge import JudgeFilter, read_scores
from kdtool_measuring import Priced
from kdtool_testing import FilterConformance, make_run

PRICE = 7
GOOD = "<verdict>\ncorrectness: 5\nclarity: 4\nreason: It is fine.\n</verdict>"


class Critic(kdtool.Teacher):
    """Scores by marks in the text: `wrong` and `unclear`; answers what a text says after `says `, or `always`."""

    offers = frozenset({"text"})

    class Config(kdtool.Config):
        """No settings but a model."""

        model: str = "critic-1"

    def __init__(self, always: str = "") -> None:
        super().__init__(self.Config())
        self.always = always
        self.calls: list[list[kdtool.Request]] = []

    @property
    def asked(self) -> list[kdtool.Request]:
        return [request for call in self.calls for request in call]

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        self.calls.append(list(requests))
        for request in reversed(self.calls[-1]):
            yield self.answer(request, request.turns[-1][1])

    def answer(self, request: kdtool.Request, text: str) -> kdtool.TextAnswer:
        scores = {"correctness": 2 if "wrong" in text else 4, "clarity": 1 if "unclear" in text else 3}
        lines = "\n".join(f"{name}: {score}" for name, score in scores.items())
        answer = f"I thought about it.\n<verdict>\n{lines}\nreason: So it is.\n</verdict>\n"
        if "says " in text:
            answer = text.partition("says ")[2].partition("\n</answer>")[0]
        finish: Any = "refused" if "refuse" in text else "length" if "long" in text else "stop"
        reason = "no room" if "no room" in text else ""
        return kdtool.TextAnswer(request.id, self.always or answer, finish, 11, 5, PRICE, reason=reason)


class Paid(Critic, Priced):
    def spent(self) -> str:
        return "$0.420 of at most $5.00"


class Heard(kdtool.Tracker):
    shown: ClassVar[list[tuple[int, str]]] = []

    def kdtool_progress(self, run: kdtool.RunInfo, done: int, total: int | None) -> None:
        self.shown.append((done, run.unit))


def example(text: str, name: str = "") -> kdtool.Example:
    return kdtool.Example(name or text, kdtool.Completion("Do it.\n", text), language="python", source="tests")


def judge(**settings: Any) -> JudgeFilter:
    return JudgeFilter(JudgeFilter.Config.model_validate({"ask": "teachers.critic"} | settings))


def run_in(folder: Path, critic: kdtool.Teacher, **others: kdtool.Component) -> kdtool.RunInfo:
    return make_run(folder, {"teachers.critic": critic, **others})


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in folder.glob("judge/*.jsonl") for line in file.read_text("utf-8").splitlines()]


class TestJudge(FilterConformance):
    component = JudgeFilter
    entry_point = "judge"
    settings: ClassVar = {"ask": "teachers.critic"}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teachers.critic": Critic()}

    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        return [example("x = 1")], [example("wrong"), example("unclear"), example("says nothing"), example("refuse")]


def test_rows_below_a_score_or_without_a_verdict_are_rejected_by_reason(tmp_path: Path) -> None:
    texts = ("fine", "wrong", "unclear", "wrong and unclear", "says nothing", "long", "refuse")
    found = judge().kdtool_filter(run_in(tmp_path, Critic()), [example(text) for text in texts])
    assert dict(zip(texts, found, strict=True)) == {
        "fine": None,
        "wrong": "correctness below 4",
        "unclear": "clarity below 3",
        "wrong and unclear": "correctness below 4",
        "says nothing": "unreadable verdict",
        "long": "unreadable verdict",
        "refuse": "refused by the judge",
    }
    assert {"unreadable verdict", "refused by the judge"} == JudgeFilter.undecided, "nothing is known of such rows"
    lower = judge(criteria={"clarity": 1, "correctness": 2}, max_tokens=99)
    assert lower.kdtool_filter(run_in(tmp_path, Critic()), [example("wrong and unclear")]) == [None]


def test_a_batch_is_asked_at_once_and_each_text_once(tmp_path: Path) -> None:
    critic, filter_ = Paid(), judge()
    run = run_in(tmp_path, critic, heard=Heard(Heard.Config()))
    batch = [example("a"), example("b"), example("a", "another id"), example("wrong")]
    assert filter_.kdtool_filter(run, batch) == [None, None, None, "correctness below 4"]
    assert [len(call) for call in critic.calls] == [3]
    assert filter_.kdtool_filter(run, batch[::-1]) == ["correctness below 4", None, None, None]
    assert filter_.kdtool_filter(run, [example("c"), example("b")]) == [None, None]
    assert [len(call) for call in critic.calls] == [3, 1]
    money = "verdicts, $0.420 of at most $5.00"
    assert {(1, money), (4, money)} <= {*Heard.shown}
    assert len({request.id for request in critic.asked}) == len({request.turns for request in critic.asked}) == 4
    assert {request.temperature for request in critic.asked} == {0.0}
    assert len(lines_of(tmp_path)) == 4, "what is judged again is not recorded again"


def test_a_verdict_s_request_depends_on_the_text_alone(tmp_path: Path) -> None:
    """A conversation, a completion and a pair with the same task and answer have one verdict."""
    critic = Critic()
    bodies: tuple[kdtool.Messages | kdtool.Completion, ...] = (
        kdtool.Messages((("user", "Do it."), ("assistant", "done"))),
        kdtool.Completion("Do it.\n\n", "done"),
        kdtool.Preference("Do it.\n\n", "done", "not done"),
    )
    judge().kdtool_filter(run_in(tmp_path, critic), [kdtool.Example(f"{n}", body) for n, body in enumerate(bodies)])
    (request,) = critic.asked
    (_, system), (_, user) = request.turns
    assert "\n- correctness: the answer does all" in system
    assert system.endswith(
        "<verdict>\ncorrectness: a score\nclarity: a score\nreason: one sentence on the worst fault\n</verdict>"
    )
    assert user == "<task>\nDo it.\n</task>\n<answer>\ndone\n</answer>"


def test_calls_of_tools_are_judged_with_their_turns(tmp_path: Path) -> None:
    critic, call = Critic(), {"tool_calls": [{"function": {"name": "f"}}]}
    body = kdtool.DetailedMessages((("user", "Do it."), ("assistant", "")), ({}, call), ({"name": "f"},))
    judge().kdtool_filter(run_in(tmp_path, critic), [kdtool.Example("a", body)])
    ((_, (_, user)),) = [request.turns for request in critic.asked]
    assert user.startswith('<task>\ntools: [{"name": "f"}]\n\nuser: Do it.')
    assert user.endswith(f"<answer>\n{json.dumps(call)}\n</answer>")


def test_each_verdict_is_recorded_with_its_provenance(tmp_path: Path) -> None:
    critic = Critic()
    judge().kdtool_filter(run_in(tmp_path, critic), [example("fine"), example("wrong"), example("refuse")])
    kept, rejected, refused = lines_of(tmp_path)
    assert kept == {
        "id": "fine", "source": "tests", "rejected": "", "scores": {"correctness": 4, "clarity": 3},
        "sentence": "So it is.", "judge": "teachers.critic", "model": "critic-1", "template": kept["template"],
        "request": critic.answer_key(critic.asked[0]), "tokens_in": 11, "tokens_out": 5, "picodollars": PRICE,
    }  # fmt: skip
    assert kept["template"].startswith("template@")
    assert (rejected["id"], rejected["rejected"], rejected["scores"]["correctness"]) == (
        "wrong",
        "correctness below 4",
        2,
    )
    assert (refused["rejected"], refused["scores"]) == ("refused by the judge", {})


def test_a_judge_that_refuses_everything_ends_the_run(tmp_path: Path) -> None:
    run, both = run_in(tmp_path, Critic()), [example("refuse: no room"), example("refuse too: no room")]
    with pytest.raises(kdtool.UsageError, match=r"judge\.ask: teachers\.critic refused each of 2 requests \(no room\)"):
        judge().kdtool_filter(run, both)
    declined = example("refuse without a reason")
    assert judge().kdtool_filter(run, [both[0], declined]) == ["refused by the judge"] * 2, "no mistake of the recipe"
    later = judge()
    assert later.kdtool_filter(run, [declined]) == ["refused by the judge"]
    assert later.kdtool_filter(run, both[:1]) == ["refused by the judge"], "the first was no mistake"


def test_a_judge_that_writes_no_readable_verdict_ends_the_run(tmp_path: Path) -> None:
    run, rows = run_in(tmp_path, Critic("Looks good to me.")), [example(f"x = {number}") for number in range(16)]
    with pytest.raises(
        kdtool.UsageError, match=r"judge\.ask: none of the first 16 verdicts of teachers\.critic ends in"
    ):
        judge().kdtool_filter(run, rows)
    assert len(lines_of(tmp_path)) == 16, "what was paid for is recorded"
    assert set(judge().kdtool_filter(run, rows[1:])) == {"unreadable verdict"}


class Keep(kdtool.Filter):
    """Keeps everything."""

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        return [None] * len(examples)


def test_cheaper_filters_stand_before_it(tmp_path: Path) -> None:
    def problems(*names: str) -> Sequence[str]:
        own = judge()
        filters = {name: own if "judge" in name else Keep(Keep.Config()) for name in names}
        filters = {name: judge() if "second" in name else filter_ for name, filter_ in filters.items()}
        return own.kdtool_check(make_run(tmp_path, {"teachers.critic": Critic(), **filters}), "start")

    assert problems("filters.length", "filters.judge") == ()
    assert problems("filters.length", "filters.judge", "filters.second") == ()
    assert problems("filters.judge", "train.prefer.filters.length") == (), "a phase has other filters"
    (problem,) = problems("filters.length", "filters.judge", "filters.syntax", "filters.more")
    assert "rows that filters.syntax, filters.more reject: move filters.judge after them" in problem


def test_check_states_the_price_of_a_row(tmp_path: Path) -> None:
    class Paid(Critic, Priced):
        def estimate_answers(
            self, run: kdtool.RunInfo, requests: Iterable[kdtool.Request], times: float = 1, most: float = 1
        ) -> Iterator[kdtool.Estimate]:
            yield kdtool.Estimate("answers", picodollars=round(times * 10**9) * sum(1 for _ in requests))

    (found,) = judge().kdtool_estimate(run_in(tmp_path, Paid()), kdtool.RunForecast())
    assert found.note == "at most $0.00100 for a row of 3,000 characters that the other filters keep"
    assert list(judge().kdtool_estimate(run_in(tmp_path, Critic()), kdtool.RunForecast())) == []


@pytest.mark.parametrize("settings", [{"criteria": {"reason": 3}}, {"criteria": {}}])
def test_names_that_verdicts_and_requests_have_already_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        judge(**settings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, {"correctness": 5, "clarity": 4}),
        (f"First <verdict>\ncorrectness: 1\nclarity: 1\n</verdict>, no:\n{GOOD}\n", {"correctness": 5, "clarity": 4}),
        (GOOD.replace("reason: It is fine.\n", ""), {"correctness": 5, "clarity": 4}),
        (GOOD.replace("5", "6"), {}),
        (GOOD.replace("clarity: 4", ""), {}),
        (GOOD.replace("clarity: 4", "clarity: 4\nclarity: 5"), {}),
        (GOOD.replace("</verdict>", ""), {}),
    ],
)  # fmt: skip
def test_scores_are_read_exactly(text: str, expected: dict[str, int]) -> None:
    assert read_scores(text, ("correctness", "clarity"))[0] == expected

"""The headline in words: what differs in likeness to the teacher or in repetition alone is no gain."""

from __future__ import annotations

import itertools

import kdtool
import pytest
from kdtool_report.html.comparisons import judgements, weakness, where_it_pays
from kdtool_report.html.wording import Measured

OTHERS = ("perplexity", "bits-per-byte")
LIKENESS = ("kl-to-teacher", "top-1-agreement-with-teacher")
KL, AGREEMENT = "KL to teacher", "top-1 agreement with teacher"


def _compared(measurement: str, verdict: str, against: str = "control") -> kdtool.Comparison:
    return kdtool.Comparison(
        measurement, "student", against, 1.0, 1.5, -0.5, -0.6, -0.4, False, verdict, 3, 64  # type: ignore[arg-type]
    )  # fmt: skip


def _verdict_of(**verdicts: str) -> str:
    """Return the headline of a run with one control, three seeds and these verdicts."""
    names = {
        "perplexity": "perplexity", "bits": "bits-per-byte", "kl": LIKENESS[0], "top_1": LIKENESS[1],
        "memorised": "memorised", "copy": "overlap.longest-copy",
    }  # fmt: skip
    words = {"better": "better", "worse": "worse", "open": "no evidence of a difference"}
    return where_it_pays(judgements([_compared(names[key], words[value]) for key, value in verdicts.items()]), 3)


NOTHING = "This run shows no gain from distillation."
LIKE = f"{NOTHING} Only likeness to the teacher differs at equal tokens: the student is"
CASES: dict[str, tuple[dict[str, str], str]] = {
    "all better": (
        {"perplexity": "better", "kl": "better"},
        "Distillation pays at equal tokens: the student is better in perplexity; "
        f"the student is closer to the teacher ({KL}).",
    ),
    "worse, but closer to the teacher": (
        {"perplexity": "worse", "kl": "better", "top_1": "better"},
        f"{NOTHING} It does not pay at equal tokens: the control is better in perplexity; "
        f"the student is closer to the teacher ({KL} and {AGREEMENT}).",
    ),
    "mixed": (
        {"perplexity": "better", "bits": "worse", "kl": "open"},
        "This run shows no gain from distillation that holds on every measurement. "
        "The result is mixed at equal tokens: the student is better in perplexity, worse in bits per byte.",
    ),
    "closer alone": (
        {"perplexity": "open", "kl": "better"},
        f"{LIKE} closer to the teacher ({KL}); no difference is shown in other measurements.",
    ),
    "likeness was measured alone": (
        {"kl": "better"}, f"{LIKE} closer to the teacher ({KL}); nothing else was compared.",
    ),
    "better, closer and repeats more": (
        {"perplexity": "better", "kl": "better", "copy": "worse"},
        "Distillation pays at equal tokens: the student is better in perplexity; the student is closer to the teacher "
        f"({KL}) and more prone to repeat training text (overlap.longest copy).",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("verdicts", "headline"), CASES.values(), ids=CASES)
def test_headline(verdicts: dict[str, str], headline: str) -> None:
    assert _verdict_of(**verdicts) == headline


@pytest.mark.parametrize("verdicts", list(itertools.product(["better", "worse", "open"], repeat=3)))
def test_what_is_decided_is_said_and_likeness_never_pays(verdicts: tuple[str, str, str]) -> None:
    headline = _verdict_of(**dict(zip(("perplexity", "bits", "kl"), verdicts, strict=True)))
    others, likeness = verdicts[:2], verdicts[2]
    assert ("Distillation pays" in headline) == ("better" in others and "worse" not in others)
    assert ("No difference is shown at" in headline) == (set(verdicts) == {"open"})
    for name, verdict in zip(("perplexity", "bits per byte"), others, strict=True):
        assert (name in headline) == (verdict != "open")
    assert (f"closer to the teacher ({KL})" in headline) == (likeness == "better")
    assert (f"farther from the teacher ({KL})" in headline) == (likeness == "worse")


def test_controls_that_show_the_same_are_said_together() -> None:
    found = judgements(
        [_compared(name, "better", against) for against in ("control", "control-time") for name in OTHERS]
    )
    assert where_it_pays(found, 3) == (
        "Distillation pays at equal tokens and at equal wall time: the student is better in perplexity and bits per byte."
    )
    apart = judgements([_compared("perplexity", "worse"), _compared(LIKENESS[0], "better", "control-time")])
    assert where_it_pays(apart, 1) == (
        "This run shows no gain from distillation. It does not pay at equal tokens: the control is better in perplexity. "
        f"Only likeness to the teacher differs at equal wall time: the student is closer to the teacher ({KL}); "
        "nothing else was compared. With one seed, intervals cover the choice of test items, not the luck of training."
    )


@pytest.mark.parametrize("called", ["kl-to-teachers.big", "base.agreement.top-1-agreement-with-teachers.big"])
def test_likeness_to_one_of_several_teachers_is_known_under_any_evaluator(called: str) -> None:
    (judged,) = judgements([_compared("perplexity", "no evidence of a difference"), _compared(called, "better")])
    assert judged.outcome == "likeness"


def _measured(name: str, **values: float) -> dict[str, dict[str, Measured]]:
    return {
        name: {
            arm: Measured({0: kdtool.Measurement(name, arm, "", value, 9, True)}) for arm, value in values.items()
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    ("student", "agreed", "said"),
    [
        (22.1, 0.6, "its perplexity is 22.1, the teacher's 11.0. Train"),
        (21.9, 0.49, "it predicts the teacher's most likely token in 49.0\u00a0% of places. Train"),
        (135.0, 0.3, "11.0 and it predicts the teacher's most likely token in 30.0\u00a0% of places. Train"),
        (22.0, 0.5, ""),
    ],
)
def test_a_poor_student_is_called_weak_and_no_other(student: float, agreed: float, said: str) -> None:
    found = _measured("second.perplexity", student=student, teacher=11.0, control=99.0)
    found |= _measured("top-1-agreement-with-teacher", student=agreed, control=0.1)
    text = weakness(found)
    assert said in text
    assert bool(text) == bool(said)
    assert not weakness(_measured("perplexity", student=99.0))

"""Headline, card and list say the same: what differs in likeness to the teacher or in repetition alone is no gain."""

from __future__ import annotations

import itertools

import kdtool
import pytest
from kdtool_reporter_html._verdict import judgements, where_it_pays

OTHERS = ("perplexity", "bits-per-byte")
LIKENESS = ("kl-to-teacher", "top-1-agreement-with-teacher")
KL, AGREEMENT = "KL to teacher", "top-1 agreement with teacher"


def _compared(measurement: str, verdict: str, against: str = "control") -> kdtool.Comparison:
    return kdtool.Comparison(
        measurement, "student", against, 1.0, 1.5, -0.5, -0.6, -0.4, False, verdict, 3, 64  # type: ignore[arg-type]
    )  # fmt: skip


def _said(**verdicts: str) -> tuple[str, str]:
    """Return headline and card of a run with one control, three seeds and these verdicts."""
    names = {
        "perplexity": "perplexity", "bits": "bits-per-byte", "kl": LIKENESS[0], "top_1": LIKENESS[1],
        "memorised": "memorised", "copy": "overlap.longest-copy",
    }  # fmt: skip
    words = {"better": "better", "worse": "worse", "open": "no evidence of a difference"}
    (judged,) = found = judgements([_compared(names[key], words[value]) for key, value in verdicts.items()], {})
    return where_it_pays(found, 3), judged.summary


NOTHING = "This run shows no gain from distillation."
LESS = "less given to repeating its training text"
LIKE = "Only likeness to the teacher is shown to differ"
CASES: dict[str, tuple[dict[str, str], str, str]] = {
    "all better": (
        {"perplexity": "better", "kl": "better"},
        "Distillation pays at equal tokens: the student is better in perplexity; "
        f"the student is closer to the teacher ({KL}).",
        "The student is better than the same model trained without the teacher. "
        f"The student is closer to the teacher ({KL}).",
    ),
    "better, but farther from the teacher": (
        {"perplexity": "better", "kl": "worse"},
        "Distillation pays at equal tokens: the student is better in perplexity; "
        f"the student is farther from the teacher ({KL}).",
        "The student is better than the same model trained without the teacher. "
        f"The student is farther from the teacher ({KL}).",
    ),
    "worse, but closer to the teacher": (
        {"perplexity": "worse", "kl": "better", "top_1": "better"},
        f"{NOTHING} It does not pay at equal tokens: the control is better in perplexity; "
        f"the student is closer to the teacher ({KL} and {AGREEMENT}).",
        "The same model trained without the teacher is better than the student. "
        f"The student is closer to the teacher ({KL} and {AGREEMENT}).",
    ),
    "mixed": (
        {"perplexity": "better", "bits": "worse", "kl": "open"},
        "This run shows no gain from distillation that holds on every measurement. "
        "The result is mixed at equal tokens: the student is better in perplexity, worse in bits per byte.",
        "The student is better on some measurements and worse on others.",
    ),
    "closer alone": (
        {"perplexity": "open", "kl": "better"},
        f"{NOTHING} {LIKE} at equal tokens: the student is closer to the teacher ({KL}); "
        "nothing is shown in other measurements.",
        f"The student is closer to the teacher ({KL}). No evidence of a difference in other measurements.",
    ),
    "farther alone": (
        {"perplexity": "open", "kl": "worse"},
        f"{NOTHING} {LIKE} at equal tokens: the student is farther from the teacher ({KL}); "
        "nothing is shown in other measurements.",
        f"The student is farther from the teacher ({KL}). No evidence of a difference in other measurements.",
    ),
    "closer in one way, farther in another": (
        {"perplexity": "open", "kl": "better", "top_1": "worse"},
        f"{NOTHING} {LIKE} at equal tokens: the student is closer to the teacher ({KL}) and "
        f"farther from the teacher ({AGREEMENT}); nothing is shown in other measurements.",
        f"The student is closer to the teacher ({KL}) and farther from the teacher ({AGREEMENT}). "
        "No evidence of a difference in other measurements.",
    ),
    "likeness was measured alone": (
        {"kl": "better"},
        f"{NOTHING} {LIKE} at equal tokens: the student is closer to the teacher ({KL}); "
        "nothing else was compared.",
        f"The student is closer to the teacher ({KL}). Nothing else was compared.",
    ),
    "repeats less alone": (
        {"perplexity": "open", "memorised": "better", "copy": "open"},
        f"{NOTHING} Only what it repeats of its text is shown to differ at equal tokens: the student is {LESS} (memorised); "
        "nothing is shown in other measurements.",
        f"The student is {LESS} (memorised). "
        "No evidence of a difference in other measurements.",
    ),
    "better, closer and repeats more": (
        {"perplexity": "better", "kl": "better", "copy": "worse"},
        "Distillation pays at equal tokens: the student is better in perplexity; "
        f"the student is closer to the teacher ({KL}) "
        "and more given to repeating its training text (overlap.longest copy).",
        "The student is better than the same model trained without the teacher. The student is closer to the teacher "
        f"({KL}) and more given to repeating its training text (overlap.longest copy).",
    ),
    "closer, and repeats less": (
        {"kl": "better", "memorised": "better"},
        f"{NOTHING} Only likeness to the teacher and what it repeats of its text are shown to differ at equal tokens: "
        f"the student is closer to the teacher ({KL}) and {LESS} (memorised); nothing else was compared.",
        f"The student is closer to the teacher ({KL}) and {LESS} (memorised). "
        "Nothing else was compared.",
    ),
    "nothing decided": (
        {"perplexity": "open", "kl": "open"},
        f"{NOTHING} Nothing is shown at equal tokens: no interval excludes that student and control are equal.",
        "No evidence of a difference between student and control.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("verdicts", "headline", "card"), CASES.values(), ids=CASES)
def test_headline_and_card(verdicts: dict[str, str], headline: str, card: str) -> None:
    assert _said(**verdicts) == (headline, card)


@pytest.mark.parametrize("verdicts", list(itertools.product(["better", "worse", "open"], repeat=3)))
def test_what_is_decided_is_said_and_likeness_never_pays(verdicts: tuple[str, str, str]) -> None:
    headline, card = _said(**dict(zip(("perplexity", "bits", "kl"), verdicts, strict=True)))
    others, likeness = verdicts[:2], verdicts[2]
    assert ("Distillation pays" in headline) == ("better" in others and "worse" not in others)
    assert ("Nothing is shown" in headline) == (set(verdicts) == {"open"}) == ("between student and control" in card)
    for name, verdict in zip(("perplexity", "bits per byte"), others, strict=True):
        assert (name in headline) == (verdict != "open")
    for text in (headline, card):
        assert (f"closer to the teacher ({KL})" in text) == (likeness == "better")
        assert (f"farther from the teacher ({KL})" in text) == (likeness == "worse")


def test_controls_that_show_the_same_are_said_together() -> None:
    found = judgements(
        [_compared(name, "better", against) for against in ("control", "control-time") for name in OTHERS], {}
    )
    assert where_it_pays(found, 3) == (
        "Distillation pays at equal tokens and at equal wall time: the student is better in perplexity and bits per byte."
    )
    apart = judgements([_compared("perplexity", "worse"), _compared(LIKENESS[0], "better", "control-time")], {})
    assert where_it_pays(apart, 1) == (
        "This run shows no gain from distillation. It does not pay at equal tokens: the control is better in perplexity. "
        f"Only likeness to the teacher is shown to differ at equal wall time: the student is closer to the teacher ({KL}); "
        "nothing else was compared. There is one seed only: the luck of a single training run is not in the intervals."
    )


@pytest.mark.parametrize("called", ["kl-to-teachers.big", "base.agreement.top-1-agreement-with-teachers.big"])
def test_likeness_to_one_of_several_teachers_is_known_under_any_evaluator(called: str) -> None:
    (judged,) = judgements([_compared("perplexity", "no evidence of a difference"), _compared(called, "better")], {})
    assert judged.outcome == "likeness"

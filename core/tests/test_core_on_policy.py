"""Text that the student writes as it learns: which recipes are refused before anything is spent, and what these are told."""

from __future__ import annotations

from typing import Any

import kdtool
import pytest
from toy import Unigram
from toy_recipe import use
from variants import variant


@pytest.fixture
def writing(recipe: dict[str, Any]) -> dict[str, Any]:
    """The toy recipe with a trainer that learns on text of the student's own, the teacher beside it."""
    return recipe | {"signals": False, "seeds": [0], "trainer": variant("Writing", writes=3)}


def refused(recipe: dict[str, Any], *settings: Any) -> str:
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.check(recipe, *settings)
    return str(caught.value)


def test_signals_are_not_recorded_of_what_is_not_written_yet(writing: dict[str, Any]) -> None:
    assert "control" in kdtool.check(writing)["arms"], "the teacher is beside the student, and the control needs none"
    writing["signals"] = use("Cache")
    said = refused(writing)
    assert "trainer.writes" in said
    assert "which `signals` cannot have recorded" in said
    assert "`train.signals: false`" in said
    kdtool.check(writing, {"trainer.writes": None})
    kdtool.check(writing, {"train.signals": False})


def test_a_loss_that_tells_own_text_apart_needs_it(writing: dict[str, Any]) -> None:
    writing["train"]["losses"] = {"telling": variant("Telling")}
    writing["control"] = False
    kdtool.check(writing)
    assert "set `trainer.writes`" in refused(writing, {"trainer.writes": None})
    said = refused(writing, {"trainer": use("Trainer")})
    assert "train.losses.telling" in said
    assert "use a trainer with an on-policy setting" in said


def test_a_loss_that_learns_from_the_corpus_alone_is_refused_beside_it(writing: dict[str, Any]) -> None:
    writing["control"] = False
    writing["rows"] = variant("Pairs")
    writing["train"]["losses"] = {"imitate": use("Imitate"), "prefer": variant("Preferring")}
    said = refused(writing)
    assert "train.losses.prefer: learns only from rows of the corpus, but" in said
    assert "set `train.trainer.writes: null` for this phase" in said
    kdtool.check(writing, {"train.trainer.writes": None})


def test_something_must_learn_from_it(writing: dict[str, Any]) -> None:
    writing["control"] = False
    writing["train"]["losses"] = {"count": use("Count")}
    assert "no loss of this phase learns from a teacher" in refused(writing)
    writing["train"]["losses"]["twice"] = variant("Twice")
    kdtool.check(writing)


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("Going", ""),
        ("Ending", "the student has 257 tokens and teacher 250"),
        ("Foreign", "the first ids with different"),
    ],
)
def test_a_teacher_must_be_able_to_read_whatever_the_student_writes(
    writing: dict[str, Any], teacher: str, said: str
) -> None:
    writing["teacher"] = variant(teacher)
    writing["train"]["losses"]["imitate"] = variant("Anything")
    kdtool.check(writing, {"trainer.writes": None})
    if not said:
        kdtool.check(writing)
    else:
        told = refused(writing)
        assert said in told
        assert "leave `trainer.writes` out" in told


def test_a_model_that_says_nothing_of_it_cannot_continue_text() -> None:
    with pytest.raises(kdtool.UsageError, match="Unigram does not support generation"):
        Unigram({}).generate([[0]], [1], 1.0, [0])

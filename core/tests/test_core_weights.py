"""Weights of losses: a control learns as much as its student would without a teacher, and nobody learns nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._assembly.assemble import assemble
from kdtool._assembly.signals import scale_to_one, weighs
from kdtool._recipe.parser import load_recipe
from variants import variant

SHARES = st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0])
COURSES = st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.8, 1.0)])
SHAPES = st.sampled_from(["linear", "cosine", "step"])
SCHEDULES = st.tuples(SHARES, SHARES, COURSES, SHAPES).map(
    lambda drawn: kdtool.Schedule(drawn[0], drawn[1], drawn[2][0], drawn[2][1], drawn[3])  # type: ignore[arg-type]
)
STEPS = [step / 40 for step in range(41)]


def _at(weight: Any, progress: float) -> float:
    return float(weight.at(progress) if isinstance(weight, kdtool.Schedule) else weight)


@given(st.lists(SHARES | SCHEDULES, min_size=1, max_size=3).filter(lambda weights: any(map(weighs, weights))))
def test_scaled_weights_sum_to_1_and_keep_their_proportions(weights: list[Any]) -> None:
    found = scale_to_one(weights)
    if found is None:
        assert any(isinstance(weight, kdtool.Schedule) for weight in weights)
        assert sum(map(weighs, weights)) > 1
        return
    for progress in STEPS:
        total = sum(_at(weight, progress) for weight in weights)
        assert sum(_at(weight, progress) for weight in found) == pytest.approx(1)
        if total:
            expected = [_at(weight, progress) / total for weight in weights]
            assert [_at(weight, progress) for weight in found] == pytest.approx(expected)


LINE = {"start": 0.0, "end": 0.9, "until": 0.5}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((LINE,), [1.0]),
        (({"start": 0.0, "end": 0.9, "begin": 0.8},), [1.0]),
        ((0.6, 0.2), [pytest.approx(0.75), pytest.approx(0.25)]),
        ((LINE, 0.0), [1.0, 0.0]),
    ],
)
def test_control_learns_at_full_weight_whatever_the_schedules(
    recipe: dict[str, Any], weights: tuple[Any, ...], expected: list[Any]
) -> None:
    count = recipe["train"]["losses"]["count"]
    own = {f"count{number}": {**count, "weight": weight} for number, weight in enumerate(weights)}
    recipe["train"]["losses"] = {"imitate": recipe["train"]["losses"]["imitate"], **own}
    (phase,) = assemble(load_recipe(recipe), lambda _: None).arms["control"]
    assert [spec.weight for spec in phase.losses] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train.losses.count.weight": 0},
            r"control: in phase 'train' has weights \(count\) that cannot be scaled to sum to 1",
        ),
        ({"train.losses.count.weight": {"start": 0, "end": 0}}, "control: in phase 'train' has weights"),
        (
            {"train.losses.count.weight": LINE, "train.losses.more.weight": 0.1},
            "cannot be scaled to sum to 1: all are 0, or follow schedules",
        ),
        ({"control.losses.count.weight": 0}, "control: in phase 'train' has weights"),
    ],
)
def test_control_that_would_learn_nothing_or_cannot_be_scaled_is_refused(
    recipe: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    use = recipe["train"]["losses"]["count"]["use"]
    for path in ("train.losses.more", "control.losses.count"):
        if f"{path}.weight" in settings:
            settings = {f"{path}.use": use, **settings}
    with pytest.raises(kdtool.RecipeError, match=message) as caught:
        kdtool.check(recipe, settings)
    assert "`control: {losses: {NAME: " in str(caught.value)


@pytest.mark.parametrize("weight", [0, {"start": 0, "end": 0}])
def test_phase_whose_losses_all_weigh_nothing_is_refused(recipe: dict[str, Any], weight: Any) -> None:
    settings = {"control": False, "train.losses.count.weight": weight, "train.losses.imitate.weight": 0}
    with pytest.raises(kdtool.RecipeError, match=r"train\.losses: in phase 'train' all losses weigh 0"):
        kdtool.check(recipe, settings)


@pytest.fixture
def likely(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that learns what the teacher finds likely, and counts beside it; nobody weighs."""
    recipe["train"]["losses"] = {
        "count": recipe["train"]["losses"]["count"],
        "likely": variant("Likely", signals=["logits", "sampled"]),
    }
    return {**recipe, "signals": False}


def problems(recipe: dict[str, Any], **weightings: Any) -> list[str]:
    train = {**recipe["train"], "weightings": weightings}
    try:
        kdtool.check({**recipe, "train": train})
    except kdtool.RecipeError as error:
        return [f"{problem.key}: {problem.message}; {problem.remedy}" for problem in error.problems]
    return []


def test_what_a_weighting_sees_is_what_the_first_token_loss_gets(likely: dict[str, Any]) -> None:
    sure = {"sure": variant("Sure")}
    assert problems(likely, **sure) == [], "the teacher beside the student gives logits"
    drawn = {**likely, "signals": variant("Drawn")}
    (found,) = problems(drawn, **sure)
    assert found.startswith("train.weightings.sure: needs logits or top-k of the teacher, but sees what likely learns")
    assert "from: sampled" in found
    assert "leave `signals` out" in found
    drawn["train"]["losses"] = {"inside": variant("Inside"), "count": likely["train"]["losses"]["count"]}
    assert problems(drawn, **sure) == [], "losses of whole sequences show nothing to a weighting"


def test_a_loss_that_is_not_there_is_refused_with_those_that_are(likely: dict[str, Any]) -> None:
    assert problems(likely, named=variant("Named")) == []
    (found,) = problems(likely, named=variant("Named", loss="likly"))
    assert found.startswith("train.weightings.named: names the loss 'likly', which is not in phase 'train'; ")
    assert "did you mean 'likely'" in found
    assert "count, likely" in problems(likely, named=variant("Named", loss="zzz"))[0]
    assert "control" in likely, "which may lack what weightings name"
    weightings = {"named": variant("Named", loss="likely"), "sure": variant("Sure")}
    assert problems(likely, **weightings) == []


@pytest.mark.parametrize("power", [0, 2])
@pytest.mark.parametrize("others", ["after it", "in a phase before it"])
def test_tokens_are_taken_at_the_temperature_of_the_loss(recipe: dict[str, Any], power: int, others: str) -> None:
    likely, inside = variant("Likely", signals=["sampled"], at=2.0, power=power), variant("Inside")
    count = recipe["train"]["losses"]["count"]
    orders: dict[str, list[dict[str, Any]]] = {
        "after it": [{"likely": likely, "inside": inside}],
        "in a phase before it": [{"inside": inside}, {"likely": likely}],
    }
    phases = {f"p{i}": {"losses": {**losses, "count": count}, "steps": 1} for i, losses in enumerate(orders[others])}
    kdtool.run({**recipe, "train": phases, "signals": variant("Drawn"), "seeds": [0], "control": False})
    assert json.loads(Path("asked.json").read_text(encoding="utf-8")) == 2.0

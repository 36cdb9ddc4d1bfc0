"""Token weights: a loss weighs as much with them as without, whatever the teacher, and however a step is cut."""

from __future__ import annotations

import json
from pathlib import Path

import kdtool
import pytest
from kdtool_testing import make_run
from kdtool_torch import WeightMeans, collate
from kdtool_torch.inputs import RowsInOrder
from safetensors.torch import load_file
from torch import Tensor
from trainer_models import (
    ByEntropy,
    One,
    TinyTeacher,
    first_batch,
    full_logits,
    make_model,
    make_phase,
    make_rows,
    make_trainer,
    mixture,
    reports_of,
    worst_difference,
)
from trainer_process import start_ranks, train_weighed

SHARP, FLAT = 6.0, 0.05


def values(folder: Path, label: str) -> list[float]:
    """Return a term's value at each step."""
    return [report["terms"][label]["value"] for report in reports_of(folder)]


def oracle(sharpness: float) -> dict[str, Tensor]:
    """Return the first step's gradients in float64: tokens weigh as the teacher's entropy, divided by the mean of that."""
    student, teacher = make_model(1), make_model(99)
    student.model.double(), teacher.model.double()
    batch = first_batch()
    asked = batch.labels != -100
    z, t = (full_logits(model, model.model.states(batch)[-1])[asked] for model in (student, teacher))
    t = sharpness * t.detach()
    p, q = t.softmax(-1), (t / 2).softmax(-1)
    entropy = -(p * p.clamp(min=1e-300).log()).sum(-1)
    kl = (q * (q.clamp(min=1e-300).log() - (z / 2).log_softmax(-1))).sum(-1)
    (0.7 * 4 * (entropy / entropy.mean() * kl).mean()).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sharpness", [SHARP, FLAT])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_mean_weight_is_one_and_gradients_are_those_of_weights_divided_by_their_mean(
    tmp_path: Path, sharpness: float, accumulation: int
) -> None:
    train_weighed(tmp_path, sharpness, steps=24, accumulation=accumulation)
    weights = values(tmp_path, "one")
    assert weights[0] == pytest.approx(1, rel=1e-5)
    assert sum(weights) / 24 == pytest.approx(1, abs=0.1), "of some fifty tokens a step"
    assert worst_difference(load_file(tmp_path / "gradients.safetensors"), oracle(sharpness)) < 1e-5


class Nothing(ByEntropy):
    """No token counts, by a column of the rows."""

    columns = frozenset({"kind"})

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return chunk.labels.float() * 0


def test_a_phase_in_which_no_token_has_a_weight_is_refused(tmp_path: Path) -> None:
    said: list[str] = []
    parts = {**mixture(), "losses.one": One(One.Config()), "weightings.own": Nothing(Nothing.Config())}
    run = make_run(tmp_path / "run", parts, say=said.append)
    phase = make_phase(
        tmp_path, [kdtool.LossTerm("losses.one", "one", 1.0)], {"teacher": TinyTeacher(make_model(99))}, 3
    )
    with pytest.raises(kdtool.UsageError, match=r"no token of phase .* had a weight, so nothing was learned"):
        make_trainer(log_every=1).kdtool_train(run, phase, make_model(1))
    assert [line for line in said if "no token of the first step has a weight" in line]


@pytest.mark.slow
def test_ranks_and_micro_batches_make_no_difference(tmp_path: Path) -> None:
    train_weighed(tmp_path / "one", SHARP, steps=6, accumulation=1)
    train_weighed(tmp_path / "four", SHARP, steps=6, accumulation=4)
    assert start_ranks(train_weighed, 2, tmp_path / "two", SHARP, 6, 2) == [0, 0]
    for label in ("one", "kl"):
        one, four, two = (values(tmp_path / name, label) for name in ("one", "four", "two"))
        assert four == pytest.approx(one, rel=1e-5)
        assert two == pytest.approx(one, rel=1e-5)


def test_means_follow_the_last_steps_and_come_back_from_their_state() -> None:
    means = WeightMeans({})
    assert means.of("kl") == 1, "nothing was weighed yet"
    means.add({"kl": 0.0}, {"kl": 10.0})
    assert means.of("kl") == 1, "nothing had a weight"
    for _ in range(200):
        means.add({"kl": 30.0, "ce": 5.0}, {"kl": 10.0, "ce": 10.0})
    assert (means.of("kl"), means.of("ce")) == pytest.approx((3.0, 0.5))
    again = WeightMeans(json.loads(json.dumps(means.state)))
    for each in (means, again):
        each.add({"kl": 60.0}, {"kl": 100.0})
    assert again.of("kl") == means.of("kl") == pytest.approx((0.9 * 300 + 60) / (0.9 * 100 + 100))


def test_steps_without_weight_leave_the_mean_alone() -> None:
    """Else it would fall towards 0, and the next token with a weight would be divided by next to nothing."""
    means = WeightMeans({})
    means.add({"kl": 2.0}, {"kl": 10.0})
    for _ in range(400):
        means.add({"kl": 0.0}, {"kl": 10.0})
    assert means.of("kl") == pytest.approx(0.2)


def test_rows_say_whose_turn_it_is_by_epoch_and_seed() -> None:
    """Signals that were recorded several times are taken in turn."""
    for seed in (0, 7):
        batch = collate([RowsInOrder(make_rows(3), 9, seed)[place] for place in range(9)])
        assert batch.turns == tuple(seed + epoch for epoch in (0, 0, 0, 1, 1, 1, 2, 2, 2))

"""On-policy distillation in whole runs: real students and teachers, the control, what is refused, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_transformers import TransformersModel
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


@pytest.fixture
def on_policy(recipe: dict[str, Any]) -> dict[str, Any]:
    """Six steps of two micro-batches, a share of them on the student's own text, with a control and without signals."""
    recipe["trainer"] |= {"accumulation": 2, "on_policy": {"fraction": 0.5, "tokens": 12}, "log_every": 1}
    recipe["train"] = {"losses": {"contrastive": {"weight": 0.8}, "ce": {"weight": 0.2}}, "steps": 6}
    recipe["control"] = {"match": "tokens"}
    left_out = {"signals", "evaluators", "exporters", "reporter", "trackers"}
    return {key: value for key, value in recipe.items() if key not in left_out}


def weights(results: kdtool.Results, arm: int = 0) -> dict[str, torch.Tensor]:
    return load_file(results.arms[arm].path / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(weight.equal(other[name]) for name, weight in one.items())


def test_contrastive_learns_from_both_kinds_of_text_and_the_control_from_the_corpus(
    on_policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[list[int]]] = []
    generate = TransformersModel.generate

    def noted(self: Any, prompts: Any, *rest: Any) -> list[list[int]]:
        found = generate(self, prompts, *rest)
        asked.append(found)
        return found

    monkeypatch.setattr(TransformersModel, "generate", noted)
    results = kdtool.run(on_policy)
    student, control = results.arms
    (note,) = [note for note in student.phases["train"].notes if note.startswith("on_policy: ")]
    own = int(note.split()[1])
    assert f"{own} of 12 micro-batches were on-policy" in note
    assert 0 < own < 12
    assert len(asked) == 1 + own, "the control writes nothing, and before the first step the student was tried once"
    assert max(len(text) for texts in asked for text in texts) <= 12
    values = [report.terms["contrastive"].value for report in student.histories["train"]]
    assert all(value > 0 for value in values)
    assert not control.phases["train"].notes
    assert control.phases["train"].tokens > student.phases["train"].tokens
    assert any(note.startswith("trainer.on_policy: the control trains on the same rows") for note in results.notes)
    plain = kdtool.run(
        on_policy, {"trainer.on_policy": None, "name": "plain", "train.losses.contrastive.use": "skew-kl"}
    )
    assert same(weights(results, 1), weights(plain, 1)), "the control is that of a run without on_policy"
    assert not same(weights(results), weights(plain))


def test_it_trains_the_same_again_and_with_adapters_and_recomputed_activations(on_policy: dict[str, Any]) -> None:
    on_policy["control"] = False
    on_policy["train"] |= {"steps": 3, "transforms": {"lora": {"r": 4, "dropout": 0.1}, "gradient-checkpointing": {}}}
    first = kdtool.run(on_policy)
    again = kdtool.run(on_policy, {"name": "again"})
    assert same(weights(first), weights(again))
    assert "micro-batches were on-policy" in " ".join(first.arms[0].phases["train"].notes)


def test_in_half_precision_it_trains_too(on_policy: dict[str, Any]) -> None:
    on_policy["control"] = False
    on_policy["trainer"]["dtype"] = "bfloat16"
    on_policy["train"]["steps"] = 2
    results = kdtool.run(on_policy)
    assert all(weight.isfinite().all() for weight in weights(results).values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"signals": {"use": "states"}}, ["trainer.on_policy", "`signals` cannot have recorded"]),
        ({"trainer.on_policy": None}, ["train.losses.contrastive", "set `trainer.on_policy`"]),
        ({"trainer.on_policy.fraction": 0}, ["train.losses.contrastive", "set `trainer.on_policy`"]),
        ({"train.losses.contrastive": False}, ["trainer.on_policy", "no loss of this phase learns from a teacher"]),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_made(
    on_policy: dict[str, Any], settings: dict[str, Any], said: list[str]
) -> None:
    for command in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError) as caught:
            command(on_policy, settings)
        assert all(words in str(caught.value) for words in said)
    assert not Path("runs").exists()


def test_teachers_with_other_tokens_are_refused(on_policy: dict[str, Any], other_teacher_folder: Path) -> None:
    on_policy["student"] = {"use": "pretrained", "model": str(other_teacher_folder)}
    on_policy["train"]["losses"] = {"uld": {}}
    on_policy["control"] = {"losses": {"ce": {}}}
    kdtool.check(on_policy, {"trainer.on_policy": None})
    with pytest.raises(kdtool.RecipeError, match=r"uld.*needs teacher to score on-policy text"):
        kdtool.check(on_policy)


def test_check_tells_of_work_for_sampling(on_policy: dict[str, Any]) -> None:
    own, plain = (
        kdtool.check(on_policy, {"train.losses": {"contrastive": False, "skew-kl": {}}, "control": False, **more})[
            "forecast"
        ]
        for more in ({}, {"trainer.on_policy": None})
    )
    assert "the time to generate on-policy text" in json.dumps(own)
    assert "the time to generate on-policy text" not in json.dumps(plain)

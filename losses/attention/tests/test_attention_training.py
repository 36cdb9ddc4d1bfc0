"""Both losses in whole phases of the standard trainer: tiny models of transformers that differ in width, depth and heads."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool._contract.signals import alternatives
from kdtool_loss_attention import AttentionMaps, Relations
from kdtool_testing import make_run
from kdtool_testing.phase import make_phase
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch.trainer import StandardTrainer
from kdtool_transformers import TransformersModel


@dataclass
class Frozen:
    """A model's signals."""

    model: TransformersModel
    want: kdtool.SignalRequest

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        with torch.inference_mode():  # what a trainer must cope with
            outputs = self.model.backbone(batch, self.want)
        return kdtool.Signal("t", attentions=outputs.attentions, projections=outputs.projections)


class Describing(kdtool.Teacher):
    """Knows its shapes."""

    model: TransformersModel

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return self.model.facts


def train(folder: Path, student: TransformersModel, steps: int, **settings: Any) -> list[dict[str, Any]]:
    """Train with both losses; return the logged terms, step by step."""
    losses: dict[str, Any] = {
        "losses.attention": AttentionMaps(AttentionMaps.Config(layers=(0,))),
        "losses.relations": Relations(Relations.Config()),
    }
    teacher = Describing(Describing.Config())
    teacher.model = tiny_model("qwen2", layers=3, seed=7)
    terms = []
    for name, loss in losses.items():
        pairs, label = tuple(loss.kdtool_layers(student.facts, teacher.model.facts)), name.removeprefix("losses.")
        given: dict[str, Any] = {"needs": alternatives(loss.needs), "divergence": True, "layers": pairs}
        terms.append(kdtool.LossTerm(name, label, 1.0, teacher="teacher", **given))
    layers = tuple(sorted({other for term in terms for _, other in term.layers}))
    source = Frozen(teacher.model, kdtool.SignalRequest(frozenset({"attentions", "projections"}), layers))
    phase = replace(make_phase(folder, steps, terms=tuple(terms)), signals={"teacher": source}, weightings=())
    run = make_run(folder / "run", {**losses, "teacher": teacher}, say=lambda _: None)
    always = {"learning_rate": 1e-2, "schedule": "constant", "warmup": 0, "weight_decay": 0, "log_every": 1}
    config = StandardTrainer.Config(**{**always, "dtype": "float32", "batch": 4, **settings})
    trained = StandardTrainer(config).kdtool_train(run, phase, student)
    assert trained is not None
    return [json.loads(line)["terms"] for line in trained.history.read_text("utf-8").splitlines()]


def other_student() -> TransformersModel:
    """Two layers, half as many heads, another head size: 2 · 12 wide where the teacher is 4 · 8."""
    return tiny_model("llama", layers=2, hidden_size=24, num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransformersModel, list[dict[str, Any]]]:
    """A student that learnt for eight steps, and what was logged."""
    student = other_student()
    return student, train(tmp_path_factory.mktemp("plain"), student, steps=8)


def test_both_losses_fall_and_the_student_alone_learns(plain: tuple[TransformersModel, list[dict[str, Any]]]) -> None:
    student, history = plain
    for label in ("attention", "relations"):
        assert history[-1][label]["value"] < 0.8 * history[0][label]["value"]
        assert history[0][label]["gradient_norm"] > 0
    before = other_student().model.state_dict()
    changed = {name for name, weight in student.model.state_dict().items() if not weight.equal(before[name])}
    assert {f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qk"} <= changed
    assert "model.layers.1.self_attn.v_proj.weight" in changed
    assert "model.layers.1.mlp.up_proj.weight" not in changed  # behind all that is compared


def test_checkpointing_of_activations_and_accumulation_change_nothing(
    plain: tuple[TransformersModel, list[dict[str, Any]]], tmp_path: Path
) -> None:
    student = other_student()
    student.model.activation_checkpointing_enable({"use_reentrant": False})
    parts = train(tmp_path, student, steps=2, batch=2, accumulation=2)
    for one, other in zip(plain[1], parts, strict=False):
        for label in one:
            assert other[label]["value"] == pytest.approx(one[label]["value"], rel=1e-4)

"""Mixtures of teachers in whole runs: the real divergences, recorded signals, drawn tokens, teachers beside the student."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def second_folder(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with the first one's tokenizer and other weights."""
    folder = shutil.copytree(teacher_folder, tmp_path_factory.mktemp("second") / "model")
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture
def several(recipe: dict[str, Any], teacher_folder: Path, second_folder: Path) -> dict[str, Any]:
    """Four steps of one student that learns from two teachers."""
    teacher = recipe.pop("teacher")
    recipe["teachers"] = {
        "one": {**teacher, "model": str(teacher_folder)},
        "two": {**teacher, "model": str(second_folder)},
    }
    recipe["student"]["source"] = "teachers.one"
    shares = {"one": 0.6, "two": 0.4}
    recipe["train"] = {
        "losses": {"forward-kl": {"teacher": shares, "temperature": 2.0}, "ce": {"weight": 0.5}},
        "steps": 4,
    }
    left_out = {"control", "evaluators", "exporters", "reporter", "trackers", "signals"}
    return {key: value for key, value in recipe.items() if key not in left_out}


def trained(results: kdtool.Results) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(results.arms[0].path / "model.safetensors")


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_recorded_signals_and_teachers_beside_the_student_train_the_same(several: dict[str, Any]) -> None:
    beside = kdtool.run(several)
    recorded = kdtool.run({**several, "name": "recorded", "signals": {"use": "states"}})
    stages = {stage.name for stage in recorded.stages if stage.name.startswith("signals")}
    assert stages == {"signals/teachers.one", "signals/teachers.two"}
    assert apart(trained(beside), trained(recorded)) < 1e-5
    assert "train.losses.forward-kl learns from a mixture: teachers.one 60 %, teachers.two 40 %" in beside.notes
    first = beside.arms[0].histories["train"][0].terms["forward-kl"]
    assert first.gradient_norm is not None
    assert first.gradient_norm > 0
    alone = kdtool.run(several, {"train.losses.forward-kl.teacher": "one", "name": "alone"})
    assert apart(trained(beside), trained(alone)) > 2e-3, "the second teacher counts"


def test_two_teachers_that_are_one_train_as_it_does(
    several: dict[str, Any], teacher_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(teacher_folder, tmp_path / "copy")
    several["teachers"]["two"]["model"] = str(tmp_path / "copy")
    mixed = kdtool.run(several)
    alone = kdtool.run(several, {"train.losses.forward-kl.teacher": "one", "name": "alone"})
    assert apart(trained(mixed), trained(alone)) < 2e-4, "AdamW makes more of rounding"


def test_other_divergences_and_drawn_tokens_learn_from_mixtures(several: dict[str, Any]) -> None:
    shares = {"one": 0.6, "two": 0.4}
    losses = {"reverse-kl": {"teacher": shares}, "jsd": {"teacher": shares, "temperature": 2.0}, "ce": {}}
    found = kdtool.run({**several, "name": "others", "train": {"losses": losses, "steps": 2}})
    assert set(found.arms[0].histories["train"][0].terms) == {"reverse-kl", "jsd", "ce"}
    drawn = {**several, "name": "drawn", "signals": {"use": "sampled"}}
    drawn["train"] = {"losses": {"forward-kl": {"teacher": shares}, "ce": {"weight": 0.5}}, "steps": 4}
    dense = {**drawn, "name": "dense", "signals": False}
    estimated, exact = (kdtool.run(each).arms[0].histories["train"][0] for each in (drawn, dense))
    # Cross-entropy with drawn tokens is forward KL and the mixture's entropy, at most log 512.
    gap = estimated.terms["forward-kl"].value - exact.terms["forward-kl"].value
    assert 0.8 * math.log(512) < gap < 1.02 * math.log(512)


def test_top_k_tokens_are_not_mixed(several: dict[str, Any]) -> None:
    several["signals"] = {"use": "top-k"}
    with pytest.raises(kdtool.RecipeError, match="outside its top k is not known, and the mixture needs it"):
        kdtool.check(several)


def test_memory_of_both_teachers_is_told(several: dict[str, Any]) -> None:
    mixed = kdtool.check(several)["forecast"]
    alone = kdtool.check(several, {"train.losses.forward-kl.teacher": "one"})["forecast"]

    def buffers(forecast: Any) -> int:
        moments = forecast["memory"]["moments"]
        (head,) = (parts for name, parts in moments.items() if name.endswith(": head"))
        found: int = head["chunk buffers"]
        return found

    # 128 positions of 512 tokens in float32: the second teacher's logits, and the mixture's own
    assert buffers(mixed) - buffers(alone) >= 2 * 128 * 512 * 4 * 0.9


LOGITS = {"one": [[2.0, -1.0, 0.5, 0.0]], "two": [[-1.0, 1.5, 0.0, 0.3]], "student": [[0.1, 0.2, -0.4, 1.0]]}
SHARES = {"one": 0.7, "two": 0.3}


def softened(logits: list[float], at: float) -> list[float]:
    powers = [math.exp(each / at) for each in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("at", [1.0, 2.0])
@pytest.mark.parametrize("name", ["forward-kl", "reverse-kl", "jsd"])
def test_real_divergences_have_the_gradient_of_mixed_probabilities(name: str, at: float) -> None:
    """∂D/∂z = (1/T) · q ⊙ (g − ⟨q, g⟩) with g = ∂D/∂q, in plain numbers."""
    import torch
    from kdtool._plugins.registry import load
    from kdtool_torch.terms import mixed_logits

    mixture = {who: softened(LOGITS[who][0], at) for who in SHARES}
    p = [sum(share * mixture[who][v] for who, share in SHARES.items()) for v in range(4)]
    q = softened(LOGITS["student"][0], at)
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    by_q = {
        "forward-kl": [-a / b for a, b in zip(p, q, strict=True)],
        "reverse-kl": [math.log(b / a) + 1 for a, b in zip(p, q, strict=True)],
        "jsd": [math.log(b / c) / 2 for b, c in zip(q, m, strict=True)],
    }[name]
    inner = sum(b * g for b, g in zip(q, by_q, strict=True))
    expected = [b * (g - inner) / at for b, g in zip(q, by_q, strict=True)]

    cls: Any = load("loss", name, Path.cwd(), print).cls
    loss = cls(cls.Config(temperature=at))
    z = torch.tensor(LOGITS["student"], dtype=torch.float64, requires_grad=True)
    told = [torch.tensor(LOGITS[who], dtype=torch.float64) for who in SHARES]
    teacher = kdtool.DenseTokens(mixed_logits(told, list(SHARES.values()), at))
    here = torch.zeros(1, dtype=torch.int64)
    chunk = kdtool.TokenChunk(z, here, teacher, here, at, torch.tensor(0.0), torch.tensor(0))
    (found,) = torch.autograd.grad(loss.kdtool_token_loss(chunk).sum(), z)
    assert found[0].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)

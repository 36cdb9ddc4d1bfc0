"""The next tokens of a batch: each text's own draws, and no token by the least number that a generator returns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from kdtool_testing.toy.sampling import nucleus
from kdtool_torch import Sampler, choose
from torch import Tensor

CPU = torch.device("cpu")
LEAST_NORMAL = torch.finfo(torch.float32).tiny


def draw_alone(logits: Tensor, generator: torch.Generator, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Return the scores [V] of one text, computed without others."""
    noise = torch.empty_like(logits).exponential_(generator=generator)
    scores = logits / temperature
    if 0 < top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)
    if top_p < 1:
        likeliest, order = scores.softmax(-1).sort(descending=True)
        dropped = likeliest.cumsum(-1) - likeliest >= top_p
        dropped[0] = False
        scores = scores.index_fill(0, order[dropped], -torch.inf)
    return scores - noise.log()


@pytest.mark.parametrize("settings", [[(1.0, 0, 1.0)], [(0.7, 5, 0.9), (0.0, 0, 1.0), (1.3, 0, 1.0), (1.3, 0, 0.5)]])
def test_a_batch_draws_bit_for_bit_as_each_text_alone(settings: list[tuple[float, int, float]]) -> None:
    rows = [settings[number % len(settings)] for number in range(13)]
    samplers = [Sampler(temperature, seed, CPU, top_k, top_p) for seed, (temperature, top_k, top_p) in enumerate(rows)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(rows))]
    for step in range(3):
        logits = torch.randn(len(rows), 1037, generator=torch.Generator().manual_seed(step)) * 4
        expected = logits.clone()
        expected[:, 1030:] = -torch.inf
        for row, (temperature, top_k, top_p) in enumerate(rows):
            if temperature:
                expected[row] = draw_alone(expected[row], generators[row], temperature, top_k, top_p)
        assert torch.equal(choose(logits, samplers, 1030), expected)


def test_the_least_number_of_a_generator_makes_no_unlikely_token_the_greatest(monkeypatch: pytest.MonkeyPatch) -> None:
    def exponential(self: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.fill_(1.0).index_fill_(-1, torch.tensor(2), LEAST_NORMAL)

    monkeypatch.setattr(Tensor, "exponential_", exponential)
    logits = torch.tensor([[0.0, 30.0, 0.0]])
    assert int(choose(logits, [Sampler(1.0, 0, CPU)], 3).argmax()) == 1


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40), st.floats(0.01, 1), st.floats(0.1, 10))
def test_the_distribution_of_top_p_is_that_of_float64(logits: list[float], top_p: float, temperature: float) -> None:
    exact = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(-1)
    expected, ordered = nucleus(exact, top_p), exact.sort(descending=True).values
    assume(not ((ordered.cumsum(-1) - top_p).abs() < 1e-5).any())  # else rounding decides about the last token
    kept = int((expected > 0).sum())
    assume(kept == len(ordered) or bool(ordered[kept - 1] - ordered[kept] > 1e-6))  # else either may be the last
    found = Sampler(temperature, 0, CPU, top_p=top_p).probabilities(torch.tensor(logits))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_top_p_keeps_all_tokens_as_likely_as_the_last_one() -> None:
    found = Sampler(1.0, 0, CPU, top_p=0.5).probabilities(torch.tensor([3.0, 1.0, 3.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([1 / 3, 0.0, 1 / 3, 1 / 3]))

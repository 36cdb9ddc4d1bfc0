"""Likelihoods against plain loops, whatever the chunks; what is not there is said.

Logits for numbers that are reported: float32 under autocast, and of heads in half precision.

Log-probabilities are those of plain loops, in a precision that is enough, and finite.

Logits come unrounded where the device returns float32 from products in half precision, as CUDA does.

A teacher opened by its logits alone: against sums by hand, and under the checks of all runtimes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from math import log
from pathlib import Path

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing import ByteTokenizer, batch_of, make_run
from kdtool_testing.model_checks import check_answers, check_runtime
from kdtool_testing.toy import StartedTokenizer
from kdtool_torch import (
    LOWEST,
    LogitsRuntime,
    Side,
    both_sides,
    exact_head,
    exact_logits,
    log_likelihood,
    log_probabilities,
    numerics,
    unrounded_logits,
)
from torch import Tensor

numbers = st.lists(st.floats(-8, 8), min_size=1, max_size=7)


def side(count: int) -> Side:
    generator = torch.Generator().manual_seed(count)
    weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((9, 4), (9,)))
    states = torch.randn(count, 4, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(7, (count,), generator=generator)
    return Side(states, labels, kdtool.Head(weight.requires_grad_(), 7, bias, 0.7, 4.0))


@given(numbers, st.integers(0, 6))
def test_log_likelihoods_are_what_plain_loops_say(values: list[float], label: int) -> None:
    label %= len(values)
    found = log_likelihood(torch.tensor([values], dtype=torch.float64), torch.tensor([label])).item()
    expected = values[label] - math.log(sum(map(math.exp, values)))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("elements", [1, 20, 2**23])
@pytest.mark.parametrize("count", [0, 1, 8])
def test_chunks_change_no_value_and_no_gradient(count: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "elements_at_once", lambda _: elements)
    own = side(count)
    learnt = (own.states, own.head.weight)
    plain = own.head.logits(own.states).log_softmax(-1).gather(-1, own.labels[:, None])[:, 0]
    found = own.likelihoods()
    torch.testing.assert_close(found, plain)
    ways = torch.arange(count, dtype=torch.float64) - 2
    for mine, theirs in zip(*(torch.autograd.grad((v * ways).sum(), learnt) for v in (found, plain)), strict=True):
        torch.testing.assert_close(mine, theirs)
    picked = torch.arange(count).flip(0)[: count // 2]
    torch.testing.assert_close(own.likelihoods(picked), plain[picked])


def view() -> kdtool.StepView:
    batch = batch_of([kdtool.Row("a", [1, 2, 3], [True] * 3, [0] * 3)])
    student, teacher = side(2), side(2)
    signal = kdtool.Signal("t", kdtool.LazyLogits(teacher.states, teacher.head))
    nothing = torch.tensor(0.0)
    return kdtool.StepView(batch, kdtool.ModelOutputs(student.states), signal, nothing, nothing, head=student.head)


def test_the_teacher_has_no_gradient_and_the_student_has() -> None:
    student, teacher = both_sides(view(), "surprise")
    assert student.labels.tolist() == teacher.labels.tolist() == [2, 3]
    assert student.likelihoods().requires_grad
    assert not teacher.likelihoods().requires_grad


def test_what_is_not_there_is_said_with_the_loss_s_name() -> None:
    whole = view()
    for lacking, message in (
        (replace(whole, head=None), "surprise compares logits, but this trainer passes .* no head"),
        (replace(whole, teacher=None), "surprise compares with a teacher's logits"),
    ):
        with pytest.raises(kdtool.PluginError, match=message):
            both_sides(lacking, "surprise")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("states_dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_rounded_to_half_precision(dtype: torch.dtype, states_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    states = (3 * torch.randn(5, 16, generator=generator)).to(states_dtype)
    weight, bias = torch.randn(40, 16, generator=generator).to(dtype), torch.randn(40, generator=generator).to(dtype)
    head = kdtool.Head(weight, 37, bias, scale=0.5, soft_cap=9.0)
    expected = 9 * torch.tanh(0.5 * (states.double() @ weight[:37].double().T + bias[:37].double()) / 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = exact_logits(head, states)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_a_head_is_copied_to_float32_once_for_all_chunks() -> None:
    head = kdtool.Head(torch.randn(40, 16).bfloat16().requires_grad_(), 37, torch.randn(40).bfloat16())
    exact = exact_head(head)
    assert (exact.weight.dtype, exact.weight.shape, exact.weight.requires_grad) == (torch.float32, (37, 16), False)
    assert exact_head(exact).weight.data_ptr() == exact.weight.data_ptr()
    states = torch.randn(5, 16)
    assert exact_logits(exact, states).equal(exact_logits(head, states))


@given(numbers, st.floats(0.25, 8))
def test_log_probabilities_are_what_plain_loops_say(values: list[float], temperature: float) -> None:
    found = log_probabilities(torch.tensor([values], dtype=torch.float64), temperature)[0].tolist()
    total = math.log(sum(math.exp(value / temperature) for value in values))
    assert found == pytest.approx([value / temperature - total for value in values], rel=1e-9, abs=1e-9)


def test_an_excluded_token_has_a_finite_log_probability_and_counts_nothing() -> None:
    logs = log_probabilities(torch.tensor([[0.0, -math.inf]]))
    assert logs.tolist() == [[0.0, pytest.approx(LOWEST)]]
    assert (logs.exp() * logs).sum().item() == 0.0


VOCABULARY, PADDED, WIDTH, COUNT = 61, 64, 32, 40
HALF = torch.bfloat16


def draw() -> tuple[kdtool.Head, kdtool.Head, Tensor]:
    """Return a head in half precision, the same one in float32, and states."""
    weight, bias, states = (torch.randn(*shape).to(HALF) for shape in ((PADDED, WIDTH), (PADDED,), (COUNT, WIDTH)))
    half, exact = (kdtool.Head(weight.to(kind), VOCABULARY, bias.to(kind), 0.7, 9.0) for kind in (HALF, torch.float32))
    return half, exact, states


def test_they_are_those_of_a_product_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "returns_float32", lambda _device, dtype: dtype == HALF)
    monkeypatch.setattr(numerics, "product_in_float32", lambda a, b, _out: a.float() @ b.float())
    half, exact, states = draw()
    found = unrounded_logits(half, states)
    torch.testing.assert_close(found, exact.logits(states))
    assert not torch.equal(found, half.logits(states).float())


def test_elsewhere_they_are_the_heads() -> None:
    for head in draw()[:2]:
        states = torch.randn(COUNT, WIDTH).to(HALF)
        assert torch.equal(unrounded_logits(head, states), head.logits(states))


class Pairs(kdtool.Teacher):
    """Random probabilities of a byte after another one."""

    offers = frozenset({"logits"})
    tokenizer: kdtool.Tokenizer = ByteTokenizer()

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self.tokenizer

    def table(self) -> torch.Tensor:
        """Logits [before, after]."""
        size = self.tokenizer.vocabulary
        return torch.randn(size, size, generator=torch.Generator().manual_seed(1))

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        assert want.kinds == {"logits"}
        states = self.table()[batch.input_ids[batch.labels != -100]]
        head = kdtool.Head(torch.eye(self.tokenizer.vocabulary), self.tokenizer.vocabulary)
        return kdtool.Signal("pairs", kdtool.LazyLogits(states, head))


class Begun(Pairs):
    """Texts behind a start."""

    tokenizer = StartedTokenizer()


class Silent(Pairs):
    """Offers logits, and signals none."""

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        return kdtool.Signal("silent")


def opened(teacher: type[Pairs], folder: Path) -> LogitsRuntime:
    return LogitsRuntime(teacher(teacher.Config()), make_run(folder))


@pytest.mark.parametrize("teacher", [Pairs, Begun])
def test_a_text_is_scored_behind_the_scoring_context(teacher: type[Pairs], tmp_path: Path) -> None:
    text = "x = [1, 2]\n" * 100  # longer than what is projected at once
    ids = [*teacher.tokenizer.scoring_context, *text.encode()]
    expected = float(teacher(teacher.Config()).table().double().log_softmax(-1)[ids[:-1], ids[1:]].sum())
    score, empty = opened(teacher, tmp_path).score([text, ""])
    assert score.log_likelihood == pytest.approx(expected, rel=1e-5)
    assert (score.tokens, score.bytes) == (len(text), len(text))
    assert empty == kdtool.LogLikelihood(0.0, 0, 0)


@pytest.mark.parametrize("teacher", [Pairs, Begun])
def test_it_does_what_all_runtimes_do(teacher: type[Pairs], tmp_path: Path) -> None:
    runtime = opened(teacher, tmp_path)
    check_runtime(runtime)
    check_answers(runtime.answer)
    assert runtime.tokenizer.fingerprint == teacher.tokenizer.fingerprint


def test_temperature_draws_from_the_request_s_seed(tmp_path: Path) -> None:
    runtime = opened(Pairs, tmp_path)
    requests = [kdtool.Request(str(seed), "", 40, temperature=1.0, seed=seed % 2) for seed in range(4)]
    texts = [found.text for found in runtime.answer(requests)]
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]
    score = next(runtime.score(["x"]))
    assert score.log_likelihood > -3 * log(257), "logits are those of one token, behind the end of a text"


def test_a_teacher_without_the_logits_that_it_offers_is_named(tmp_path: Path) -> None:
    with pytest.raises(kdtool.PluginError, match="Silent is opened by its logits, but signals none"):
        list(opened(Silent, tmp_path).score(["x"]))


def test_a_signal_of_logits_gives_them_back_exactly_and_has_no_gradient() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    for values in (logits, logits.double(), logits[:0]):
        signal = kdtool.Signal.of_logits("table", values)
        assert signal.lazy is not None
        found = signal.lazy.head.logits(signal.lazy.hidden)
        assert found.equal(values.detach().float())
        assert not found.requires_grad
    with torch.inference_mode():
        kdtool.Signal.of_logits("table", torch.randn(2, 9))
    head = kdtool.Signal.of_logits("table", torch.randn(2, 9)).lazy
    assert head is not None
    assert not head.head.weight.is_inference()

"""The suites of losses of both forms and of losses of tokens, and the chunks of positions that they are tested on.

The suite of weightings uses the chunks, too. Torch is imported when a test runs.
"""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pytest
from kdtool import ChosenTokens, DenseTokens, KdtoolError, Loss, SignalKind, SparseTokens, TokenChunk, TokenLoss
from kdtool._contract.signals import alternatives
from kdtool._plugins.hook_specs import implements

from kdtool_testing.component import ComponentConformance

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class LossConformance(ComponentConformance):
    """The attributes that a loss declares are possible."""

    kind: ClassVar[str] = "loss"
    _form: ClassVar[type[Loss]]
    """The class that a loss of this suite extends."""

    def test_it_extends_the_class_of_its_form(self) -> None:
        assert issubclass(self.component, self._form)

    def test_what_it_declares_is_possible(self) -> None:
        loss = self.build()
        for alternative in alternatives(loss.needs):
            assert alternative
            assert alternative <= frozenset(get_args(SignalKind))
        assert loss.temperature > 0
        assert loss.temperature_power in (0, 1, 2)
        compares = loss.needs or loss.forward_passes == 2
        assert compares or not (loss.divergence or loss.temperature_power), (
            "without a teacher there is nothing to soften"
        )

    def test_a_weight_means_the_same_at_every_temperature(self) -> None:
        """For losses that soften distributions and have a temperature setting."""
        power = self.build().temperature_power
        if power and "temperature" in self.component.Config.model_fields:
            low, high = (self._slopes(temperature) for temperature in (2.0, 4.0))
            expected = [slope / 2**power for slope in low]
            assert high == pytest.approx(expected, rel=0.2), (
                f"its gradient does not shrink with T to the power of {power}"
            )

    def _slopes(self, temperature: float) -> list[float]:
        """Return norms of gradients at this temperature, for a student and a teacher that hardly differ."""
        raise NotImplementedError


POSITIONS, VOCABULARY = 7, 11


class TokenLossConformance(LossConformance):
    """A token loss gives one right-shaped, finite, pure value per position, regardless of the rest of the chunk."""

    _form: ClassVar[type[Loss]] = TokenLoss

    def test_one_value_a_position_in_float32(self) -> None:
        import torch

        for chunk in self._chunks():
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                values = self._values(_in_dtype(chunk, dtype))
                assert values.shape == (POSITIONS,)
                assert values.dtype == torch.float32
                assert values.isfinite().all()

    def test_where_it_must_know_what_the_student_wrote_it_matters_and_is_asked_for(self) -> None:
        for chunk in self._chunks():
            if "student_generated" not in chunk.columns:
                return
            other = replace(chunk, columns={"student_generated": 1 - chunk.columns["student_generated"]})
            assert not self._values(other).equal(self._values(chunk))
            with pytest.raises(KdtoolError, match="student_generated"):
                self._values(replace(chunk, columns={}))

    def test_positions_do_not_see_each_other(self) -> None:
        import torch

        for chunk in self._chunks():
            whole = self._values(chunk)
            parts = torch.cat([self._values(part_of(chunk, slice(i, i + 1))) for i in range(POSITIONS)])
            torch.testing.assert_close(parts, whole)

    def test_nothing_is_changed_in_place_and_nothing_remembered(self) -> None:
        import torch

        for chunk in self._chunks():
            before, labels = [logits.clone() for logits in passes_of(chunk)], chunk.labels.clone()
            first = self._values(chunk)
            assert all(map(torch.equal, passes_of(chunk), before))
            assert torch.equal(chunk.labels, labels)
            assert torch.equal(self._values(chunk), first)

    def test_its_gradient_is_right(self) -> None:
        import torch

        for chunk in self._chunks(dtype=torch.float64):
            small = part_of(chunk, slice(0, 3))
            passes = tuple(logits.requires_grad_() for logits in passes_of(small))
            # steps and tolerances for losses that compute in float32 whatever they are given, as the contract asks
            assert torch.autograd.gradcheck(
                lambda *z, c=small: self._values(with_passes(c, *z)), passes, eps=1e-2, atol=2e-3, rtol=1e-2
            )

    def test_it_stays_finite_at_extreme_logits(self) -> None:
        for chunk in self._chunks(scale=1e4):
            value, gradients = self._with_gradients(chunk)
            assert value.isfinite().all()
            assert all(gradient.isfinite().all() for gradient in gradients)

    def test_a_gradient_by_hand_is_that_of_autograd(self) -> None:
        import torch

        for chunk, values, gradient in self._by_hand(dtype=torch.float64):
            expected, (by_autograd,) = self._with_gradients(chunk)
            # for losses that compute in float32 whatever they are given, too
            torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6, check_dtype=False)
            torch.testing.assert_close(gradient, by_autograd, rtol=1e-4, atol=1e-6, check_dtype=False)

    def test_a_gradient_by_hand_is_finite_float32_in_memory_of_its_own(self) -> None:
        import torch

        for options in ({"dtype": torch.bfloat16}, {"dtype": torch.float16}, {"scale": 1e4}):
            for chunk, values, gradient in self._by_hand(**options):
                assert values.shape == (POSITIONS,)
                assert gradient.shape == chunk.student_logits.shape
                assert values.dtype == gradient.dtype == torch.float32
                assert values.isfinite().all()
                assert gradient.isfinite().all()

    def test_it_can_be_differentiated_and_compiled_as_one_graph(self) -> None:
        import torch

        for chunk in self._chunks():
            loss = self.build()

            def total(logits: tuple[Tensor, ...], step: Tensor, chunk: TokenChunk = chunk, loss: Any = loss) -> Tensor:
                values: Tensor = loss.kdtool_token_loss(replace_logits(chunk, logits, step))
                return values.sum()

            transformed = torch.func.grad_and_value(total)
            torch.compiler.reset()  # graphs of other losses count against a limit
            compiled = torch.compile(transformed, fullgraph=True, backend="eager")
            logits = passes_of(chunk)
            torch.testing.assert_close(compiled(logits, chunk.step), transformed(logits, chunk.step))
            with torch.compiler.set_stance("fail_on_recompile"):
                compiled(logits, chunk.step + 1)

    def test_where_it_asks_for_two_passes_both_are_learned_from(self) -> None:
        for chunk in self._chunks():
            if chunk.second_logits is not None:
                _, gradients = self._with_gradients(chunk)
                assert all(gradient.any() for gradient in gradients)

    def test_a_divergence_is_nothing_between_equals_and_never_negative(self) -> None:
        loss = self.build()
        if not loss.divergence:
            pytest.skip("not declared a divergence")
        for chunk in self._chunks():
            if not isinstance(chunk.teacher, SparseTokens):
                assert (self._values(chunk) >= 0).all()
                logits = chunk.student_logits
                equal = with_passes(replace(chunk, teacher=DenseTokens(logits)), *[logits] * loss.forward_passes)
                value, gradients = self._with_gradients(equal)
                assert value.abs().max() < 1e-6
                assert all(gradient.abs().max() < 1e-6 for gradient in gradients)

    def _by_hand(self, **options: Any) -> Iterator[tuple[TokenChunk, Tensor, Tensor]]:
        """Yield chunks with the analytic gradient of the loss, which stays right after its memory was changed."""
        import torch

        loss = self.build()
        if loss.forward_passes == 2 or not implements(self.component, "kdtool_token_gradient"):
            return
        for chunk in self._chunks(**options):
            before = chunk.student_logits.clone()
            answer = loss.kdtool_token_gradient(chunk)
            if answer is not None:
                answer[1].zero_()
                assert torch.equal(chunk.student_logits, before), (
                    "return the gradient in new memory: the logits must not change with it"
                )
                yield chunk, *loss.kdtool_token_gradient(chunk)

    def _slopes(self, temperature: float) -> list[float]:
        chunks = self._chunks(scale=0.1, temperature=temperature)
        told = (chunk for chunk in chunks if not isinstance(chunk.teacher, SparseTokens))
        found = (self._with_gradients(chunk, temperature=temperature)[1] for chunk in told)
        return [float(gradient.norm()) for gradients in found for gradient in gradients]

    def _values(self, chunk: TokenChunk, **settings: Any) -> Tensor:
        values: Tensor = self.build(**settings).kdtool_token_loss(chunk)
        return values

    def _with_gradients(self, chunk: TokenChunk, **settings: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        import torch

        passes = [logits.clone().requires_grad_() for logits in passes_of(chunk)]
        values = self._values(with_passes(chunk, *passes), **settings)
        return values.detach(), torch.autograd.grad(values.sum(), passes)

    def _chunks(self, scale: float = 2.0, dtype: torch.dtype | None = None, **settings: Any) -> Iterator[TokenChunk]:
        """Yield a chunk for each alternative that the loss accepts."""
        import torch

        loss = self.build(**settings)
        generator = torch.Generator().manual_seed(0)
        student, teacher, second = (
            scale * torch.randn(POSITIONS, VOCABULARY, generator=generator, dtype=dtype or torch.float32)
            for _ in range(3)
        )
        needs = alternatives(loss.needs) or (None,)
        for need in needs:
            yield TokenChunk(
                student_logits=student,
                labels=torch.randint(VOCABULARY, (POSITIONS,), generator=generator),
                teacher=None if need is None else teacher_tokens(need, teacher, loss.temperature),
                positions=torch.arange(POSITIONS),
                temperature=loss.temperature,
                progress=torch.tensor(0.5),
                step=torch.tensor(3),
                columns={"student_generated": torch.arange(POSITIONS) % 2} if loss.on_policy else {},
                second_logits=second if loss.forward_passes == 2 else None,
            )


def replace_logits(chunk: TokenChunk, logits: tuple[Tensor, ...], step: Tensor) -> TokenChunk:
    """Return the chunk with other logits and step; written out, as `dataclasses.replace` does not compile."""
    return TokenChunk(
        logits[0],
        chunk.labels,
        chunk.teacher,
        chunk.positions,
        chunk.temperature,
        chunk.progress,
        step,
        chunk.columns,
        second_logits=logits[1] if len(logits) > 1 else None,
    )


def _in_dtype(chunk: TokenChunk, dtype: torch.dtype) -> TokenChunk:
    teacher = chunk.teacher
    if isinstance(teacher, DenseTokens):
        teacher = DenseTokens(teacher.logits.to(dtype))
    return with_passes(replace(chunk, teacher=teacher), *(logits.to(dtype) for logits in passes_of(chunk)))


def teacher_tokens(
    need: frozenset[SignalKind], logits: Tensor, temperature: float
) -> DenseTokens | SparseTokens | ChosenTokens:
    """Return a teacher's tokens in the first form of `need` that token losses see, from its logits [C, V]."""
    import torch

    if "logits" in need:
        return DenseTokens(logits)
    probabilities = (logits / temperature).softmax(-1).float()
    if "top-k" in need:
        weights, ids = probabilities.topk(4)
        ids, weights = ids.clone(), weights.clone()
        ids[0, 2:], weights[0, 2:] = -1, 0
        return SparseTokens(ids.int(), weights, "top-k", temperature)
    if "sampled" in need:
        samples = torch.multinomial(probabilities, 5, replacement=True, generator=torch.Generator().manual_seed(1))
        return SparseTokens(samples.int(), torch.full(samples.shape, 0.2), "sampled", temperature)
    if "chosen" in need:
        ids = logits.roll(1, 0).topk(6).indices
        return ChosenTokens(ids.int(), probabilities.gather(-1, ids).log(), temperature)
    raise TypeError(f"a token loss sees logits, sampled, top-k or chosen tokens, and none of them is in {sorted(need)}")


def passes_of(chunk: TokenChunk) -> tuple[Tensor, ...]:
    """Return the student's logits of each pass."""
    return (chunk.student_logits,) if chunk.second_logits is None else (chunk.student_logits, chunk.second_logits)


def with_passes(chunk: TokenChunk, *logits: Tensor) -> TokenChunk:
    """Return the chunk with other logits of the student, of one pass or two."""
    return replace(chunk, student_logits=logits[0], second_logits=logits[1] if len(logits) > 1 else None)


def part_of(chunk: TokenChunk, rows: slice) -> TokenChunk:
    """Return some positions of a chunk, in separate memory."""
    teacher = chunk.teacher
    if isinstance(teacher, DenseTokens):
        teacher = DenseTokens(teacher.logits[rows])
    elif isinstance(teacher, ChosenTokens):
        teacher = replace(teacher, ids=teacher.ids[rows], log_probabilities=teacher.log_probabilities[rows])
    elif teacher is not None:
        teacher = replace(teacher, ids=teacher.ids[rows], weights=teacher.weights[rows])
    return replace(
        with_passes(chunk, *(logits[rows].clone() for logits in passes_of(chunk))),
        labels=chunk.labels[rows],
        teacher=teacher,
        positions=chunk.positions[rows],
        columns={name: column[rows] for name, column in chunk.columns.items()},
    )

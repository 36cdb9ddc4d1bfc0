"""The suites of losses. Torch is imported when a test runs."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pytest

from kdtool._contract.data import Batch
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.loss import PerSequence, PerToken, StepView, TokenChunk
from kdtool._contract.signals import (
    DenseTokens,
    Head,
    LazyLogits,
    ModelOutputs,
    Offer,
    Projections,
    Signal,
    SparseTokens,
)
from kdtool._errors import KdtoolError
from kdtool.testing._chunks import part_of, passes_of, teacher_tokens, with_passes
from kdtool.testing._component import ComponentConformance

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["LossConformance", "SequenceLossConformance", "TokenLossConformance"]

POSITIONS, VOCABULARY = 7, 11


class LossConformance(ComponentConformance):
    """What a loss says of itself is possible."""

    kind: ClassVar[str] = "loss"

    def test_it_implements_one_form_of_loss(self) -> None:
        from kdtool._plugins.validation import implements

        forms = [name for name in ("kdtool_token_loss", "kdtool_sequence_loss") if implements(self.component, name)]
        wanted = "kdtool_sequence_loss" if isinstance(self, SequenceLossConformance) else "kdtool_token_loss"
        assert forms == [wanted]
        by_hand = implements(self.component, "kdtool_token_gradient")
        assert not by_hand or wanted == "kdtool_token_loss", (
            "the engine asks losses of tokens alone for gradients by hand"
        )

    def test_what_it_declares_is_possible(self) -> None:
        loss = self.build()
        assert isinstance(loss.needs, tuple)
        for alternative in loss.needs:
            assert alternative
            assert alternative <= frozenset(get_args(Offer))
        assert loss.temperature > 0
        assert loss.softened in (0, 1, 2)
        compares = loss.needs or loss.passes == 2
        assert compares or not (loss.divergence or loss.softened), "without a teacher there is nothing to soften"

    def test_a_weight_means_the_same_at_every_temperature(self) -> None:
        """Of losses that soften distributions, where their temperature can be set."""
        power = self.build().softened
        if power and "temperature" in self.component.Config.model_fields:
            low, high = (self._slopes(temperature) for temperature in (2.0, 4.0))
            expected = [slope / 2**power for slope in low]
            assert high == pytest.approx(expected, rel=0.2), (
                f"its gradient does not shrink with T to the power of {power}"
            )

    def _slopes(self, temperature: float) -> list[float]:
        """Return norms of gradients at this temperature, where student and teacher hardly differ."""
        raise NotImplementedError


class TokenLossConformance(LossConformance):
    """A token loss gives one right-shaped, finite, pure value a position, whatever else is in the chunk."""

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
            if "own" not in chunk.columns:
                return
            other = replace(chunk, columns={"own": 1 - chunk.columns["own"]})
            assert not self._values(other).equal(self._values(chunk))
            with pytest.raises(KdtoolError, match="own"):
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
                equal = with_passes(replace(chunk, teacher=DenseTokens(logits)), *[logits] * loss.passes)
                value, gradients = self._with_gradients(equal)
                assert value.abs().max() < 1e-6
                assert all(gradient.abs().max() < 1e-6 for gradient in gradients)

    def _by_hand(self, **options: Any) -> Iterator[tuple[TokenChunk, Tensor, Tensor]]:
        """Yield chunks with what the loss gives by hand, which is as right after the gradient's memory was changed."""
        import torch

        from kdtool._plugins.validation import implements

        loss = self.build()
        if loss.passes == 2 or not implements(self.component, "kdtool_token_gradient"):
            return
        for chunk in self._chunks(**options):
            before = chunk.student_logits.clone()
            answer = loss.kdtool_token_gradient(chunk)
            if answer is not None:
                answer[1].zero_()
                assert torch.equal(chunk.student_logits, before), "the gradient is to be in memory of its own"
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
        signals = [teacher_tokens(need, teacher, loss.temperature) for need in loss.needs] if loss.needs else [None]
        for signal in signals:
            yield TokenChunk(
                student_logits=student,
                labels=torch.randint(VOCABULARY, (POSITIONS,), generator=generator),
                teacher=signal,
                positions=torch.arange(POSITIONS),
                temperature=loss.temperature,
                progress=torch.tensor(0.5),
                step=torch.tensor(3),
                columns={"own": torch.arange(POSITIONS) % 2} if loss.own_text else {},
                second_logits=second if loss.passes == 2 else None,
            )


class SequenceLossConformance(LossConformance):
    """A sequence loss gives one finite value a labelled position or a row, with gradient to the student alone."""

    student = ModelFacts(1000, 1000, 4, 8, 2, 2, 16, 50, 64, "float32", True, "t")
    teacher = ModelFacts(9000, 9000, 6, 12, 2, 2, 24, 50, 64, "float32", True, "t")

    def test_one_value_a_position_or_a_row(self) -> None:
        loss, view = self._ready()
        result = loss.kdtool_sequence_loss(view)
        assert isinstance(result, PerToken | PerSequence)
        wanted = len(view.student.last) if isinstance(result, PerToken) else len(view.batch.labels)
        assert result.values.shape == (wanted,)
        assert result.values.isfinite().all()

    def test_a_batch_without_labels_gives_no_value_and_no_error(self) -> None:
        loss, view = self._ready(labelled=0)
        result = loss.kdtool_sequence_loss(view)
        assert not isinstance(result, PerToken) or result.values.shape == (0,)

    def test_gradient_reaches_the_student_and_the_modules_and_not_the_teacher(self) -> None:
        loss, view = self._ready()
        loss.kdtool_sequence_loss(view).values.sum().backward()
        assert any(state.grad is not None for state in _inside(view.student))
        if self._module is not None:
            assert all(parameter.grad is not None for parameter in self._module.parameters())
        assert view.teacher is not None
        assert all(not state.requires_grad for state in _inside(view.teacher))

    def test_a_divergence_is_nothing_between_equals_and_never_negative(self) -> None:
        import torch

        loss, view = self._ready()
        if not loss.divergence:
            pytest.skip("not declared a divergence")
        assert (loss.kdtool_sequence_loss(view).values >= 0).all()
        loss, view = self._ready(equal=True)
        values = loss.kdtool_sequence_loss(view).values
        gradients = torch.autograd.grad(values.sum(), _inside(view.student), allow_unused=True)
        assert values.abs().max() < 1e-6
        assert all(gradient.abs().max() < 1e-6 for gradient in gradients if gradient is not None)

    def test_modules_are_made_anew_and_nothing_is_kept_of_them(self) -> None:
        """`kdtool check` has them made on the device "meta", where no training could go on with them."""
        import torch

        loss, view = self._ready()
        before = loss.kdtool_sequence_loss(view).values
        with torch.device("meta"):
            module = loss.kdtool_modules(self.student, self.teacher)
        after = loss.kdtool_sequence_loss(view).values
        assert after.device == before.device, "the loss kept what kdtool_modules returned; it is in view.module"
        torch.testing.assert_close(after, before)
        assert module is None or module is not self._module

    def test_layers_that_are_paired_exist(self) -> None:
        for mine, theirs in self.build().kdtool_layers(self.student, self.teacher) or ():
            assert 0 <= mine < self.student.layers
            assert 0 <= theirs < self.teacher.layers

    def _slopes(self, temperature: float) -> list[float]:
        import torch

        loss, view = self._ready(width=0.05, temperature=temperature)
        values, inside = loss.kdtool_sequence_loss(view).values, _inside(view.student)
        gradients = torch.autograd.grad(values.sum(), inside, allow_unused=True)
        return [float(gradient.norm()) for gradient in gradients if gradient is not None]

    def columns(self, labels: Tensor) -> Mapping[str, Tensor]:
        """Return the columns that rows must have for this loss, [B, L] as the labels; none for most."""
        return {}

    _module: Any = None

    def _ready(
        self, labelled: int = 5, *, equal: bool = False, width: float = 1.0, **settings: Any
    ) -> tuple[Any, StepView]:
        """Return the loss under further settings and what it sees; weights of the heads have this standard deviation."""
        import torch

        loss = self.build(**settings)
        teacher = replace(self.student, layers=self.teacher.layers) if equal else self.teacher
        pairs = loss.kdtool_layers(self.student, teacher) or ()
        self._module = loss.kdtool_modules(self.student, teacher)
        labels = torch.full((2, 6), -100)
        labels.view(-1)[:labelled] = 7
        batch = Batch(labels.clamp(min=0), torch.arange(6).repeat(2, 1), labels, torch.zeros(2, 6).int(), ("a", "b"))
        batch = replace(batch, columns=self.columns(labels))
        kinds = {"hidden", *(kind for need in loss.needs[:1] for kind in need)}
        mine = _outputs(self.student, {own: 0 if equal else own for own, _ in pairs}, batch, kinds)
        theirs = _outputs(teacher, {other: 0 if equal else -1 - other for _, other in pairs}, batch, kinds)
        own, other = _head(self.student, 1, width), _head(teacher, 1 if equal else 2, width)
        lazy = LazyLogits(theirs.last, other) if any("logits" in need for need in loss.needs) else None
        signal = Signal("t", lazy, None, theirs.hidden, theirs.attentions, theirs.projections)
        again = _outputs(self.student, {layer: 0 if equal else 100 + layer for layer, _ in pairs}, batch, kinds)
        second = again if equal else replace(again, last=again.last.flip(0))
        for state in [*_inside(mine), *_inside(second), own.weight]:
            state.requires_grad_()
        inside: dict[str, Any] = {"layers": tuple(pairs), "module": self._module}
        view = StepView(batch, mine, signal, torch.tensor(0.5), torch.tensor(3), head=own, **inside)
        return loss, replace(view, second=second) if loss.passes == 2 else view


def _outputs(facts: ModelFacts, seeds: Mapping[int, int], batch: Batch, kinds: set[str]) -> ModelOutputs:
    """Return random outputs of a model with these shapes, by a seed for each layer: states, attention maps, projections."""
    import torch

    generator, (rows, length) = torch.Generator(), batch.labels.shape
    labelled, size = int((batch.labels != -100).sum()), facts.head_size or facts.hidden // facts.heads
    later = torch.ones(length, length, dtype=torch.bool).triu(1)

    def of(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def each(kind: str, make: Any) -> dict[int, Any]:
        given = seeds.items() if kind in kinds else ()
        return {layer: make() for layer, seed in given if generator.manual_seed(seed)}

    widths = (facts.heads * size, facts.kv_heads * size, facts.kv_heads * size)
    return ModelOutputs(
        of(labelled, facts.hidden),
        each("hidden", lambda: of(labelled, facts.hidden)),
        each("attentions", lambda: of(rows, facts.heads, length, length).masked_fill(later, -torch.inf).softmax(-1)),
        each("projections", lambda: Projections(*(of(rows, length, width) for width in widths))),
    )


def _inside(given: ModelOutputs | Signal) -> list[Tensor]:
    last = [given.last] if isinstance(given, ModelOutputs) else []
    projections = chain.from_iterable(given.projections.values())
    return [*last, *given.hidden.values(), *given.attentions.values(), *projections]


def _head(facts: ModelFacts, seed: int, width: float) -> Head:
    """Return a random head with some rows of padding, its weights of standard deviation `width`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return Head(width * torch.randn(facts.vocabulary + 6, facts.hidden, generator=generator), facts.vocabulary)


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

"""The suite of losses of whole sequences. Torch is imported when a test runs."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from kdtool import (
    Batch,
    Head,
    LazyLogits,
    Loss,
    ModelFacts,
    ModelOutputs,
    PerSequence,
    PerToken,
    Projections,
    Routing,
    SequenceLoss,
    Signal,
    StepView,
)
from kdtool._contract.signals import alternatives

from kdtool_testing.loss import LossConformance

if TYPE_CHECKING:
    from torch import Tensor


class SequenceLossConformance(LossConformance):
    """A sequence loss gives one finite value per labelled position or row, with a gradient only to the student."""

    student = ModelFacts(1000, 1000, 4, 8, 2, 2, 16, 50, 64, "float32", True, "t")
    _form: ClassVar[type[Loss]] = SequenceLoss
    _module: Any = None
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
        """`kdtool check` has them made on the device "meta", where training could not continue with them."""
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
        for layer, teacher_layer in self.build().kdtool_layers(self.student, self.teacher) or ():
            assert 0 <= layer < self.student.layers
            assert 0 <= teacher_layer < self.teacher.layers

    def _slopes(self, temperature: float) -> list[float]:
        import torch

        loss, view = self._ready(width=0.05, temperature=temperature)
        values, inside = loss.kdtool_sequence_loss(view).values, _inside(view.student)
        gradients = torch.autograd.grad(values.sum(), inside, allow_unused=True)
        return [float(gradient.norm()) for gradient in gradients if gradient is not None]

    def columns(self, labels: Tensor) -> Mapping[str, Tensor]:
        """Return the columns that rows must have for this loss, [B, L] as the labels; none for most."""
        return {}

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
        needs = alternatives(loss.needs)
        kinds: set[str] = {"hidden", *(kind for need in needs[:1] for kind in need)}
        outputs = _outputs(self.student, {layer: 0 if equal else layer for layer, _ in pairs}, batch, kinds)
        taught = _outputs(teacher, {layer: 0 if equal else -1 - layer for _, layer in pairs}, batch, kinds)
        head, teacher_head = _head(self.student, 1, width), _head(teacher, 1 if equal else 2, width)
        lazy = LazyLogits(taught.last, teacher_head) if any("logits" in need for need in needs) else None
        signal = Signal("t", lazy, None, taught.hidden, taught.attentions, taught.projections)
        again = _outputs(self.student, {layer: 0 if equal else 100 + layer for layer, _ in pairs}, batch, kinds)
        second = again if equal else replace(again, last=again.last.flip(0))
        outputs = replace(outputs, routing=_routing(self.student, batch)) if loss.routing else outputs
        for state in [*_inside(outputs), *_inside(second), head.weight]:
            state.requires_grad_()
        inside: dict[str, Any] = {"layers": tuple(pairs), "module": self._module}
        view = StepView(batch, outputs, signal, torch.tensor(0.5), torch.tensor(3), head=head, **inside)
        return loss, replace(view, second=second) if loss.forward_passes == 2 else view


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


def _routing(facts: ModelFacts, batch: Batch) -> Routing:
    """Return random router logits of four experts in each layer, of which a token passes through two."""
    import torch

    generator = torch.Generator().manual_seed(3)
    return Routing(tuple(torch.randn(*batch.labels.shape, 4, generator=generator) for _ in range(facts.layers)), 2)


def _inside(given: ModelOutputs | Signal) -> list[Tensor]:
    last = [given.last] if isinstance(given, ModelOutputs) else []
    routing = given.routing.logits if isinstance(given, ModelOutputs) and given.routing else ()
    projections = chain.from_iterable(given.projections.values())
    return [*last, *given.hidden.values(), *given.attentions.values(), *projections, *routing]


def _head(facts: ModelFacts, seed: int, width: float) -> Head:
    """Return a random head with some rows of padding, its weights of standard deviation `width`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return Head(width * torch.randn(facts.vocabulary + 6, facts.hidden, generator=generator), facts.vocabulary)

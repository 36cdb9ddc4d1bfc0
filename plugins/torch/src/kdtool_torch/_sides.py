"""The two sides of a comparison, student and teacher: each one's labels, final states and head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import kdtool

from kdtool_torch._chunks import in_chunks
from kdtool_torch._likelihood import log_likelihood
from kdtool_torch._on_host import select_labelled

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Side", "both_sides"]


@dataclass(frozen=True, eq=False)
class Side:
    """One model at the N labelled positions of its batch: `states` [N, H], `labels` [N]."""

    states: Tensor
    labels: Tensor
    head: kdtool.Head

    def logits(self, numbers: Tensor) -> Tensor:
        """Return logits [C, V] at these of the labelled positions."""
        return self.head.logits(self.states[numbers])

    def likelihoods(self, numbers: Tensor | None = None) -> Tensor:
        """Return the log-likelihoods of the labels at these of the labelled positions, in nats; None: at all, [N]."""
        states, labels = (self.states, self.labels) if numbers is None else (self.states[numbers], self.labels[numbers])

        def of_tokens(part: slice) -> Tensor:
            return log_likelihood(self.head.logits(states[part]), labels[part])

        return in_chunks(of_tokens, len(labels), self.head.vocabulary, states.device)


def both_sides(view: kdtool.StepView, loss: str) -> tuple[Side, Side]:
    """Return student and teacher, the latter without gradient, as a view has them; `loss` is named in errors.

    Raises:
        PluginError: the trainer or the teacher left out what the contract lets a loss expect.
    """
    if view.head is None:
        raise kdtool.PluginError(
            f"{loss} compares logits, but this trainer passes sequence losses no head of the student (StepView.head); use "
            "trainer: standard, or a loss that needs no logits"
        )
    if view.teacher is None or view.teacher.lazy is None:
        raise kdtool.PluginError(f"{loss} compares with a teacher's logits, and its signal contains none")
    other, lazy = view.teacher_batch or view.batch, view.teacher.lazy
    student = Side(view.student.last, select_labelled(view.batch.labels, view.batch), view.head)
    teacher = Side(lazy.hidden.detach(), select_labelled(other.labels, other), _without_gradient(lazy.head))
    for who, side in (("student's", student), ("teacher's", teacher)):
        if len(side.states) != len(side.labels):
            raise kdtool.PluginError(
                f"{loss}: the {who} states are of {len(side.states)} positions, but its rows have {len(side.labels)} "
                "labels; one for each is expected"
            )
    return student, teacher


def _without_gradient(head: kdtool.Head) -> kdtool.Head:
    learns = head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
    if not learns:
        return head  # itself: a trainer's head may keep its cast weight
    return replace(head, weight=head.weight.detach(), bias=None if head.bias is None else head.bias.detach())

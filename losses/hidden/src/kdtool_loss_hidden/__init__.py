"""Distance between teacher's and student's hidden states.

`HiddenStates` is the loss that recipes call `hidden`: it pairs layers, makes projectors if widths differ, and compares
at labelled positions. `state_distance` is the distance of one pair as a plain function. Means over positions, weights and
the training of the projectors are the trainer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import kdtool
from kdtool_torch import PairedLayers, at_least_float32, pair_layers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, ModuleDict

__all__ = ["HiddenStates", "state_distance"]

EPSILON = 1e-6
"""Added to the mean square before its root: states of zeros stay zeros."""


def state_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return mean_h (ŝ_h − t̂_h)², x̂ = x / sqrt(mean_h x_h² + 1e-6): the squared error of RMS-normalised states.

    0 for equal states, 4 for opposite ones, 2 for orthogonal ones: 2·(1 − cosine) up to the small constant, so the scale of
    the residual stream plays no part. After Jiao et al. (TinyBERT), arXiv 1909.10351, equation 8, who do not normalise.

    Args:
        student: [N, H], any floating type; computed in float32 or better.
        teacher: [N, H].

    Returns:
        [N].
    """
    return (_normalise(student) - _normalise(teacher)).square().mean(-1)


class HiddenStates(PairedLayers):
    """Mean over pairs of layers of the squared error between RMS-normalised hidden states.

    The student learns to keep the teacher's inner representations. Not softened: no temperature. 0 if all paired states
    agree and no projector is used.
    """

    needs = "hidden"
    config: Config

    class Config(kdtool.Config):
        """Settings of `hidden`."""

        layers: Literal["auto"] | tuple[Annotated[int, kdtool.Field(ge=0, le=999)], ...] = "auto"
        """Student layers to compare, counted from 0. "auto" takes every second one and leaves the last to other losses.

        Each is compared with the teacher's layer that it was copied from, else with layer l · L_teacher / L_student."""

    def kdtool_layers(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> Sequence[tuple[int, int]]:
        """Pair student with teacher layers.

        Raises:
            kdtool.UsageError: a layer that the student does not have, one twice, or none at all.
        """
        return pair_layers("hidden.layers", self.config.layers, student, teacher)

    def kdtool_modules(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> ModuleDict | None:
        """Return a linear projector [H_student → H_teacher] per pair, or None if the widths agree."""
        if student.hidden == teacher.hidden:
            return None
        from torch.nn import Linear, ModuleDict

        pairs = self.kdtool_layers(student, teacher)
        return ModuleDict({str(layer): Linear(student.hidden, teacher.hidden, bias=False) for layer, _ in pairs})

    def compare(self, view: kdtool.StepView, teacher: kdtool.Signal, student_layer: int, teacher_layer: int) -> Tensor:
        """Return `state_distance` of two layers' states."""
        projected = _project(view.module, student_layer, view.student.hidden[student_layer])
        return state_distance(projected, teacher.hidden[teacher_layer])


def _project(projectors: Module | None, layer: int, states: Tensor) -> Tensor:
    if projectors is None:
        return states
    projector = projectors.get_submodule(str(layer))
    projected: Tensor = projector(states.to(next(projector.parameters()).dtype))
    return projected


def _normalise(states: Tensor) -> Tensor:
    states = at_least_float32(states)
    return states * (states.square().mean(-1, keepdim=True) + EPSILON).rsqrt()

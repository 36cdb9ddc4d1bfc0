"""Base of both losses: layers of student and teacher that are compared, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PairedLayers"]


class PairedLayers(kdtool.SequenceLoss):
    """A loss that is a mean over pairs of layers; subclasses define `pair` and `compare`.

    0, with zero gradient, if both models agree. Not softened: no temperature.
    """

    divergence = True

    def pair(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> tuple[tuple[int, int], ...]:
        """Return pairs (student layer, teacher layer), after checking that the two models can be compared."""
        raise NotImplementedError

    def compare(self, view: kdtool.StepView, teacher: kdtool.Signal, student_layer: int, teacher_layer: int) -> Tensor:
        """Return the value of one pair of layers for each of the N labelled positions."""
        raise NotImplementedError

    def kdtool_layers(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> Sequence[tuple[int, int]]:
        """Pair student with teacher layers.

        Raises:
            kdtool.UsageError: the settings name layers that are not there, or heads of these models cannot be compared.
        """
        return self.pair(student, teacher)

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return the mean over the pairs for each of the N labelled positions."""
        if view.teacher is None or not view.layers:
            raise kdtool.PluginError(
                f"{type(self).__name__} compares paired layers with a teacher's: the trainer must give each step the term's "
                "`layers` and a teacher's signal"
            )
        values = [
            self.compare(view, view.teacher, student_layer, teacher_layer)
            for student_layer, teacher_layer in view.layers
        ]
        return kdtool.PerToken(sum(values[1:], values[0]) / len(values))

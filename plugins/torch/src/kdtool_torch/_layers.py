"""Pairs of layers of a student and its teacher, for losses that compare hidden states or attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import kdtool

__all__ = ["pair_layers"]


def pair_layers(
    setting: str, layers: Literal["auto"] | Sequence[int], student: kdtool.ModelFacts, teacher: kdtool.ModelFacts
) -> tuple[tuple[int, int], ...]:
    """Pair student layers, from 0, with the teacher's that each was copied from, else with round(l · L_teacher / L_student).

    "auto" takes every second layer and leaves the last to losses that see logits. `setting` is how errors name `layers`.

    Raises:
        UsageError: a layer that the student does not have, one twice, or none at all.
    """
    chosen = _every_second(student.layers) if layers == "auto" else tuple(layers)
    if not chosen or max(chosen) >= student.layers or len(set(chosen)) < len(chosen):
        raise kdtool.UsageError(
            f"{setting} is {list(chosen)}, but must name one or more different layers of the student, which has "
            f"layers 0 to {student.layers - 1}"
        )
    return tuple((layer, _teacher_layer(layer, student, teacher)) for layer in chosen)


def _every_second(layers: int) -> tuple[int, ...]:
    """Take layers 1, 3, 5 …; the last is replaced by the one before, since logit losses already cover it."""
    return tuple(sorted({min(layer, layers - 2) for layer in range(1, layers, 2)})) or (0,)


def _teacher_layer(layer: int, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> int:
    copied = student.copied_layers
    # Facts do not name whom layers were copied from: a teacher of the same tokens that is not narrower is taken for it.
    same = student.tokenizer_fingerprint == teacher.tokenizer_fingerprint and student.hidden <= teacher.hidden
    if same and len(copied) == student.layers and max(copied) < teacher.layers:
        return copied[layer]
    return min(int(layer * teacher.layers / student.layers + 0.5), teacher.layers - 1)

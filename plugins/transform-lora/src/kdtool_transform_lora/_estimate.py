"""Memory of the moments in which adapters are put into a student and merged into it, before and after the trainer's own."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool

from kdtool_transform_lora._adapters import linear_layers

__all__ = ["rewriting_parts"]

_FLOAT = 4


def rewriting_parts(ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
    """Yield what rewriting the student takes: its weights as they are stored, layer by layer, and the adapters.

    Both moments are in main memory before training, where the student was opened; merging is where it was trained. Of the
    largest layer, its product of adapters and a copy are there beside it, in float32.
    """
    phase = ahead.phase
    if phase is None or phase.outline is None or phase.facts is None or not ahead.student_bytes:
        return
    weights = ahead.student_bytes
    largest = max((layer.weight.numel() for layer in linear_layers(phase.outline).values()), default=0)
    beside = _FLOAT * phase.facts.trainable + 2 * _FLOAT * largest
    opened, merged = f"{phase.stage}: adapters put in", f"{phase.stage}: adapters merged"
    yield kdtool.Estimate("weights", (opened,), host_bytes=weights)
    yield kdtool.Estimate("adapters and a layer", (opened,), host_bytes=beside)
    yield kdtool.Estimate("weights", (merged,), compute_bytes=weights)
    yield kdtool.Estimate("adapters and a layer", (merged,), compute_bytes=beside)

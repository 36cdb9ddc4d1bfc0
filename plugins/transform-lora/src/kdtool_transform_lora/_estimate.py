"""Memory that inserting adapters into a student and merging them takes, before and after training."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool
from kdtool_torch import stored_bytes

from kdtool_transform_lora._adapters import linear_layers

__all__ = ["rewriting_parts"]

_FLOAT = 4


def rewriting_parts(ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
    """Yield the memory for rewriting the student: its weights as they are stored, layer by layer, and the adapters.

    Adapters are inserted in main memory, before training. Mapped pages of the student's file go back to the
    system as its layers are quantised. Adapters are merged on the device that trained.
    The largest layer's product of adapters, and a copy of it, come on top, in float32.
    """
    phase = ahead.phase
    if phase is None or phase.outline is None or phase.facts is None or not ahead.student_bytes:
        return
    weights = ahead.student_bytes
    largest = max((layer.weight.numel() for layer in linear_layers(phase.outline).values()), default=0)
    on_top = _FLOAT * phase.facts.trainable + 2 * _FLOAT * largest
    opened, merged = f"{phase.stage}: adapters put in", f"{phase.stage}: adapters merged"
    frozen = sum(stored_bytes(weight) for weight in phase.outline.model.parameters() if not weight.requires_grad)
    yield kdtool.Estimate("weights", (opened,), host_bytes=min(weights, frozen))
    yield kdtool.Estimate("adapters and a layer", (opened,), host_bytes=on_top)
    yield kdtool.Estimate("weights", (merged,), compute_bytes=weights)
    yield kdtool.Estimate("adapters and a layer", (merged,), compute_bytes=on_top)

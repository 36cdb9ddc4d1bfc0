"""Figures of the student's outline, remembered: arms, and attempts to make a recipe fit, ask for the same ones."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import kdtool
import torch
from kdtool_torch import has_flash, pick_device
from kdtool_transformers import TransformersModel

from kdtool_trainer_standard._activation_memory import ActivationMemory, OutlineFromFacts, estimate_activation_memory
from kdtool_trainer_standard._frozen import frozen_bytes, hold_outline

__all__ = ["activation_memory", "measure_outline", "outline_of"]


@lru_cache(maxsize=8)
def _outline_from(facts: kdtool.ModelFacts) -> OutlineFromFacts:
    return OutlineFromFacts(facts)


def outline_of(phase: kdtool.PlannedPhase, ahead: kdtool.RunForecast) -> TransformersModel | None:
    """Return the phase's outline, or one of the student's shapes; None if the student is not described."""
    if isinstance(phase.outline, TransformersModel):
        return phase.outline
    facts = phase.facts or ahead.models.get(ahead.student)
    return None if facts is None else _outline_from(facts)


class _Outlined(NamedTuple):
    """Figures of an outline as it was before the estimate, which gives frozen weights other dtypes."""

    learns: int
    held: int
    kept: int
    facts: kdtool.ModelFacts
    shapes: tuple[object, ...]
    """Everything that the estimate depends on, except the micro-batch."""


_outlines: WeakKeyDictionary[torch.nn.Module, dict[torch.dtype, _Outlined]] = WeakKeyDictionary()


def measure_outline(outline: TransformersModel, dtype: torch.dtype) -> _Outlined:
    """Return the figures of an outline; arms, and attempts to make a recipe fit, share outlines."""
    model = outline.model
    known = _outlines.setdefault(model, {})
    if dtype not in known:
        weights = tuple((n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in model.named_parameters())
        again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
        held, kept = frozen_bytes(model, dtype)
        if isinstance(outline, OutlineFromFacts):
            learns, held = outline.facts.trainable, 4 * (outline.facts.parameters - outline.facts.trainable)
        shapes = type(model).__name__, weights, again, dtype
        known[dtype] = _Outlined(learns, held, kept, outline.facts, shapes)
    return known[dtype]


_known: dict[tuple[object, ...], ActivationMemory] = {}


def activation_memory(
    outline: TransformersModel, rows: int, length: int, dtype: torch.dtype, passes: int
) -> ActivationMemory:
    """Estimate, or remember: `--fit` asks for one student again and again."""
    gpu = pick_device().type == "cuda"
    flash = gpu and has_flash()
    key = (*measure_outline(outline, dtype).shapes, rows, length, passes, gpu, flash)
    if key not in _known:
        with hold_outline(outline.model, dtype):
            _known[key] = estimate_activation_memory(outline, rows, length, dtype, passes, gpu=gpu, flash=flash)
    return _known[key]

"""Phases that learn also on text that the student writes: which they are, and what does not go together with that.

Signals of such text cannot be recorded, a teacher must read its tokens, and something must learn from it. `needs_problems`
asks for the problems of a recipe; `_run.vocabularies` asks whether a phase is one, once tokenizers are known. The control,
and a phase that trains a teacher, may have such a trainer: where no loss learns from a teacher, its trainer has no use of
such text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._contract.loss import Loss
from kdtool._contract.trainer import Trainer
from kdtool._errors import Problem
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import PhaseSpec, Recipe, of_kind, problem_at
from kdtool._recipe.yaml import KeyPath

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["on_policy_key", "on_policy_problems"]


def on_policy_key(phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> KeyPath | None:
    """Return the key by which a phase's trainer learns also on text that the student writes; None where it does not."""
    key = _setting(phase, built)
    if key is None or phase.trainer is None:
        return None
    return key if getattr(built[phase.trainer.key].config, str(key[-1]), None) is not None else None


def on_policy_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield what does not go together with learning on the student's own text, or cannot do without it."""
    for phase in recipe.phases:
        if phase.trains is not None:
            continue
        key = on_policy_key(phase, built)
        if key is None:
            yield from _without(recipe, phase, built)
        else:
            yield from _with(recipe, phase, key, built)


def _setting(phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> KeyPath | None:
    trainer = built[phase.trainer.key].instance() if phase.trainer else None
    if phase.trainer is None or not isinstance(trainer, Trainer) or not trainer.on_policy:
        return None
    return (*phase.trainer.key, trainer.on_policy)


def _without(recipe: Recipe, phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    setting = _setting(phase, built)
    for spec in phase.losses:
        if getattr(built[spec.key].instance(), "on_policy", False):
            message = "tells the student's own text from the corpus's, but this phase learns on the corpus's alone"
            remedy = f"set `{as_written(setting)}`" if setting else "take a trainer that learns on the student's own"
            yield problem_at(recipe, spec.key, message, remedy)


def _with(recipe: Recipe, phase: PhaseSpec, key: KeyPath, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    losses = [loss for spec in phase.losses if isinstance(loss := built[spec.key].instance(), Loss)]
    if not any(loss.needs or loss.divergence for loss in losses):
        message = "has the student learn on text of its own, but no loss of this phase learns from a teacher"
        yield problem_at(recipe, key, message, "add a loss that does, such as a divergence, or leave this setting out")
    for spec in phase.losses:
        if getattr(built[spec.key].instance(), "corpus_only", False):
            message = "learns from rows of the corpus alone, but this phase also learns on text that the student writes"
            off = as_written((*phase.key, "trainer", key[-1]))
            yield problem_at(recipe, spec.key, message, f"set `{off}: null` for this phase, or leave this loss out")
    caches = of_kind(phase.sources, "cache")
    if caches and any(loss.needs for loss in losses):
        name = as_written(caches[0].key)
        message = (
            f"has teachers asked about text that the student writes as it learns, which `{name}` cannot have recorded"
        )
        off = as_written((*phase.key, "signals"))
        yield problem_at(
            recipe, key, message, f"leave `{name}` out (`{off}: false` for this phase alone), or this setting"
        )

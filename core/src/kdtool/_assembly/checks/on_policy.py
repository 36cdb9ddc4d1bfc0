"""On-policy phases: their losses, teachers and caches can work on text that the student writes.

A teacher must score such text, so its signals cannot be recorded. Phases without a loss that learns from a teacher, such as
the control's, do not use it, regardless of their trainer's setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdtool._assembly.built import Built, BuiltRecipe
from kdtool._contract.trainer import Trainer
from kdtool._errors import Problem
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._recipe.yaml import KeyPath


def on_policy_key(phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> KeyPath | None:
    """Return the key that makes a phase on-policy; None where it is not set."""
    key = _setting(phase, built)
    is_set = phase.trainer and key and getattr(built[phase.trainer.key].config, str(key[-1]), None) is not None
    return key if is_set else None


def check_on_policy(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the components that cannot work on on-policy text, or cannot work without it."""
    for phase in parts.recipe.phases:
        if phase.trains is None:
            key = on_policy_key(phase, parts.built)
            yield from _check_without(parts, phase) if key is None else _check_with(parts, phase, key)


def _setting(phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> KeyPath | None:
    trainer = built[phase.trainer.key].component if phase.trainer else None
    if phase.trainer is None or not isinstance(trainer, Trainer) or not trainer.on_policy:
        return None
    return (*phase.trainer.key, trainer.on_policy)


def _check_without(parts: BuiltRecipe, phase: PhaseSpec) -> Iterator[Problem]:
    setting = _setting(phase, parts.built)
    for spec in phase.losses:
        if parts.component(spec).on_policy:
            message = "needs on-policy text, but this phase trains only on the corpus"
            remedy = f"set `{as_written(setting)}`" if setting else "use a trainer with an on-policy setting"
            yield parts.problem(spec.key, message, remedy)


def _check_with(parts: BuiltRecipe, phase: PhaseSpec, key: KeyPath) -> Iterator[Problem]:
    losses = [parts.component(spec) for spec in phase.losses]
    if not any(loss.needs or loss.divergence for loss in losses):
        message = "asks for on-policy text, but no loss of this phase learns from a teacher"
        yield parts.problem(key, message, "add a loss that does, such as a divergence, or leave this setting out")
    for spec, loss in zip(phase.losses, losses, strict=True):
        if loss.corpus_only:
            message = "learns only from rows of the corpus, but this phase also trains on on-policy text"
            off = as_written((*phase.key, "trainer", key[-1]))
            yield parts.problem(spec.key, message, f"set `{off}: null` for this phase, or leave this loss out")
    caches = of_kind(phase.sources, "cache")
    if caches and any(loss.needs for loss in losses):
        name, off = as_written(caches[0].key), as_written((*phase.key, "signals"))
        message = f"asks teachers to score on-policy text, which `{name}` cannot have recorded"
        remedy = f"leave `{name}` out (`{off}: false` for this phase only), or this setting"
        yield parts.problem(key, message, remedy)

"""The arms of a run: the student, and controls that train the same student without the teacher.

`read_control` reads the recipe's key `control`; `arms_of` gives every arm's phases once the losses are known. Phases that
train a teacher belong to no arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kdtool._adapting import adapting_problems
from kdtool._errors import Problem
from kdtool._recipe.model import ARMS, ComponentSpec, ControlSpec, PhaseSpec, Recipe, problem_at
from kdtool._recipe.yaml_text import KeyPath
from kdtool._weights import scaled, weighs

if TYPE_CHECKING:
    from kdtool._assembly import Built
    from kdtool._recipe.parse import Parser

__all__ = ["CONTROL_KEYS", "arms_of", "read_control"]

CONTROL_KEYS = ("match", "losses", "trainer")


def read_control(parser: Parser, phases: tuple[PhaseSpec, ...]) -> ControlSpec | None:
    """Read the recipe's key `control`; problems go to the parser."""
    value = parser.data.get("control")
    if value is None or value is False:
        return None
    keys = value if isinstance(value, Mapping) else {"match": "tokens" if value is True else value}
    if isinstance(value, Mapping):
        parser.refuse_unknown(("control",), CONTROL_KEYS)
    match = keys.get("match", "tokens")
    match = [match] if isinstance(match, str) else match
    good = isinstance(match, list) and bool(match) and all(item in list(ARMS) for item in match)
    if not parser.require(good, ("control", "match"), f"is one or more of {', '.join(ARMS)}"):
        return None
    remedy = "time needs tokens too: its speed decides how many steps the time is worth"
    parser.require("time" not in match or "tokens" in match, ("control", "match"), remedy)
    losses = parser.components(("control", "losses"))
    phases = tuple(phase for phase in phases if phase.trains is None)
    own = [
        replace(phase, losses=losses or phase.losses, trainer=_control_trainer(parser, phase, alone=len(phases) == 1))
        for phase in phases
    ]
    return ControlSpec(tuple(key for key in ARMS if key in match), bool(losses), tuple(own))


def _control_trainer(parser: Parser, phase: PhaseSpec, *, alone: bool) -> ComponentSpec | None:
    """Return the trainer of a control's phase: the control's settings over the phase's own."""
    spec = parser.trainer(("control", "trainer"), phase.trainer)
    if spec is None or alone or spec == phase.trainer:
        return spec
    return replace(spec, path=f"control.{phase.name}.trainer", key=("control", phase.name, "trainer"))


def arms_of(
    recipe: Recipe, built: Mapping[KeyPath, Built], problems: list[Problem]
) -> dict[str, tuple[PhaseSpec, ...]]:
    """Return the phases of each arm by its name, the student's first."""
    problems.extend(adapting_problems(recipe, built))
    student = tuple(phase for phase in recipe.phases if phase.trains is None)
    return {"student": student, **_control_arms(recipe, built, problems)}


def _control_arms(
    recipe: Recipe, built: Mapping[KeyPath, Built], problems: list[Problem]
) -> dict[str, tuple[PhaseSpec, ...]]:
    """Return the control's phases: without the losses that need a teacher, the others' weights scaled to sum to 1."""
    if recipe.control is None:
        return {}
    phases = []
    for phase in recipe.control.phases:
        kept = [spec for spec in phase.losses if not getattr(built[spec.key].instance(), "needs", ())]
        if not kept or (recipe.control.losses_given and len(kept) < len(phase.losses)):
            message = "has no loss that works without a teacher" if not kept else "has a loss that needs a teacher"
            problems.append(_unlearnable(recipe, phase, message, "{NAME: {}}"))
        elif not any(weighs(spec.weight) for spec in kept):
            message = f"has no weight above 0 on losses that work without a teacher ({_names(kept)})"
            problems.append(_unlearnable(recipe, phase, message, "{NAME: {}}"))
        elif (weights := scaled([spec.weight for spec in kept])) is None:
            message = f"has weights ({_names(kept)}) of which no schedules make a sum of 1 at every step"
            problems.append(_unlearnable(recipe, phase, message, "{NAME: {weight: 0.7}, OTHER: {weight: 0.3}}"))
        else:
            losses = (replace(spec, weight=weight) for spec, weight in zip(kept, weights, strict=True))
            phases.append(replace(phase, losses=tuple(losses)))
    return {ARMS[match]: tuple(phases) for match in recipe.control.match}


def _unlearnable(recipe: Recipe, phase: PhaseSpec, message: str, losses: str) -> Problem:
    remedy = f"name losses for the control that need no teacher: `control: {{losses: {losses}}}`"
    return problem_at(recipe, ("control",), f"in phase {phase.name!r} {message}", remedy)


def _names(losses: Iterable[ComponentSpec]) -> str:
    return ", ".join(spec.name for spec in losses)

"""The recipe's key `control`: the arms to run beside the student, and the phases that they train with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdtool._recipe.model import ARMS, ComponentSpec, ControlSpec, PhaseSpec
from kdtool._recipe.parser import Parser

__all__ = ["CONTROL_KEYS", "read_control"]

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

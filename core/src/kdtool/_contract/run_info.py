"""The surroundings of a component: which run and stage it works for, and where it may write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdtool._contract.data import TextSource
from kdtool._contract.licences import Licensed

if TYPE_CHECKING:
    from kdtool._plugins.hook_list import Hooks


@dataclass(frozen=True)
class RunInfo:
    """What a component may know about the run. Write only into `folder`.

    `arm` is "student", "control" (equal tokens) or "control-time" (equal wall time), or the name of a teacher that is
    trained. `stage` is the kind of artefact being made; where that is a phase of training, `phase` is its name. `label`
    tells artefacts of one kind apart, as "perplexity-student" does among the scores; "" where there is one. `rank` and
    `world` count processes. `say` shows a line to the user. `licences` are the terms that the run's components bring, and
    what the student takes under them.
    """

    name: str
    stage: str
    folder: Path
    hook: Hooks
    texts: TextSource
    arm: str = "student"
    seed: int = 0
    rank: int = 0
    world: int = 1
    offline: bool = False
    say: Callable[[str], None] = print
    phase: str = ""
    licences: tuple[Licensed, ...] = ()
    label: str = ""

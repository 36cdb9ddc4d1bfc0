"""The surroundings of a component: its run and stage, and the folder for its files."""

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
    """A component's access to the run. Write only into `folder`.

    `arm` is "student", "control" (equal tokens) or "control-time" (equal wall time), or the name of a teacher that is
    trained. `stage` is the kind of artefact being made; for a phase of training, `phase` is its name. `label` distinguishes
    artefacts of one kind, such as "perplexity-student" among the scores; "" if there is only one. `rank` and `world` count
    processes. `say` shows a line to the user. `licences` are the terms of the run's components, and the student's use of
    them.
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

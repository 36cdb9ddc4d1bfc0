"""What the stages of a run share: components, folders, fingerprints of components, and how a stage is told to trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool._assembly import Assembly
from kdtool._contract.kinds import Hooks
from kdtool._contract.text import Example, Split, TextSource
from kdtool._contract.training import RunInfo
from kdtool._recipe.model import PhaseSpec
from kdtool._run.artefacts import Artefact, Artefacts
from kdtool._run.fingerprint import component_part
from kdtool._run.results import StageRecord

__all__ = ["Context", "NoTexts", "Stage", "close_components"]


def close_components(hooks: Hooks, names: Collection[str], complain: Callable[[str], None]) -> None:
    """Close the named components, last first; one that fails does not keep the others from it."""
    for name in reversed(hooks.kdtool_close.names()):
        if name in names:
            try:
                hooks.kdtool_close.of(name)()
            except Exception as error:
                complain(f"{hooks.owner(name)} could not be closed: {error!r}")


class NoTexts:
    """The `TextSource` before the text artefact is there."""

    def examples(self, split: Split) -> Iterator[Example]:
        """Refuse.

        Raises:
            LookupError: always.
        """
        raise LookupError(f"there is no text of split {split!r} yet at this point of the run")


@dataclass(frozen=True)
class Stage:
    """What a stage is called, for whom it is, and how much there is to do."""

    kind: str
    label: str = ""
    arm: str = "student"
    seed: int = 0
    total: int | None = None
    unit: str = ""


@dataclass
class Context:
    """One run in progress."""

    assembly: Assembly
    folder: Path
    store: Artefacts
    own: Artefacts
    offline: bool
    hooks: Hooks
    texts: TextSource = field(default_factory=NoTexts)
    stages: list[StageRecord] = field(default_factory=list)
    identities: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def info(self, stage: Stage, folder: Path, hooks: Hooks | None = None) -> RunInfo:
        """Return what components of a stage may know."""
        return RunInfo(
            name=self.assembly.recipe.name,
            stage=stage.kind,
            folder=folder,
            hook=hooks or self.hooks,
            texts=self.texts,
            arm=stage.arm,
            seed=stage.seed,
            offline=self.offline,
            say=lambda text: self.say(text),
        )

    def say(self, text: str) -> None:
        """Show a line to the user: by the trackers, or as it is where there are none."""
        if self.hooks.kdtool_said.names():
            self.hooks.kdtool_said(self._silent_info(), text)
        else:
            self.assembly.complain(text)

    def part(self, name: str, phase: PhaseSpec | None = None) -> str:
        """Return what stands for a component in fingerprints."""
        return component_part(self.assembly.built_for(phase)[name], self.identities.get(name))

    def make(
        self,
        where: Artefacts,
        stage: Stage,
        fingerprint: str,
        build: Callable[[RunInfo, Path], None],
        hooks: Hooks | None = None,
    ) -> Artefact:
        """Make or reuse an artefact, and tell the trackers and the run's record."""
        shown = self.info(stage, self.folder, hooks)
        start = time.monotonic()

        def begin(folder: Path) -> None:
            self.hooks.kdtool_stage_start(shown, stage.total, stage.unit)
            build(self.info(stage, folder, hooks), folder)

        about: dict[str, Any] = {"stage": stage.kind, "arm": stage.arm, "seed": stage.seed}
        artefact = where.make(stage.kind, stage.label, fingerprint, build=begin, waiting=self.say, about=about)
        self.hooks.kdtool_stage_end(shown, time.monotonic() - start, artefact.reused)
        name = "/".join(part for part in (stage.kind, stage.label) if part)
        self.stages.append(StageRecord(name, fingerprint, artefact.seconds, artefact.reused, artefact.path))
        return artefact

    def _silent_info(self) -> RunInfo:
        return self.info(Stage("run"), self.folder)

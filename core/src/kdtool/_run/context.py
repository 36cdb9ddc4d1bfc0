"""What the stages of a run share: components, folders, fingerprints of components, and how a stage is told to trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdtool._assembly import Assembly
from kdtool._contract.kinds import Hooks
from kdtool._contract.text import Example, Split, TextSource
from kdtool._contract.training import RunInfo
from kdtool._licences import Licensed
from kdtool._recipe.model import PhaseSpec
from kdtool._run.artefacts import Artefact, Artefacts
from kdtool._run.fingerprint import component_part
from kdtool._run.graph import MODEL, Node, Stage
from kdtool._run.ranks import wait_for
from kdtool._run.results import StageRecord
from kdtool._run.texts import StoredTexts
from kdtool._vocabulary import Vocabularies

__all__ = ["Context", "NoTexts", "close_components"]


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


@dataclass
class Context:
    """One run in progress, in one of its processes: `rank` of `world`.

    `adapted` holds the nodes with what teachers learnt in phases of their own, by component; `names` what measured subjects
    are called in this run, by what their artefacts call them.
    """

    assembly: Assembly
    folder: Path
    store: Artefacts
    own: Artefacts
    offline: bool
    hooks: Hooks
    rank: int = 0
    world: int = 1
    stages: list[StageRecord] = field(default_factory=list)
    identities: dict[str, Mapping[str, str]] = field(default_factory=dict)
    licences: tuple[Licensed, ...] = ()
    vocabularies: dict[str, Vocabularies] = field(default_factory=dict)
    made: dict[str, Artefact] = field(default_factory=dict)
    adapted: dict[str, Node] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    _voices: dict[str, Node | None] = field(default_factory=dict)

    def info(self, stage: Stage, folder: Path, texts: TextSource | None = None) -> RunInfo:
        """Return what components of a stage may know."""
        return RunInfo(
            name=self.assembly.recipe.name,
            stage=stage.kind,
            folder=folder,
            hook=self.hooks,
            texts=texts or NoTexts(),
            arm=stage.arm,
            seed=stage.seed,
            rank=self.rank,
            world=self.world,
            offline=self.offline,
            say=lambda text: self.say(text),
            phase=stage.phase,
            licences=self.licences,
            label=stage.label,
        )

    def say(self, text: str) -> None:
        """Show a line to the user: by the trackers, or as it is where there are none. Only rank 0 speaks."""
        if self.rank:
            return
        if self.hooks.kdtool_said.names():
            self.hooks.kdtool_said(self._silent_info(), text)
        else:
            self.assembly.complain(text)

    def part(self, name: str, phase: PhaseSpec | None = None) -> dict[str, Any]:
        """Return what stands for a component in fingerprints."""
        return component_part(self.assembly.built_for(phase)[name], self.identities.get(name))

    def speaking(self, teachers: Iterable[str]) -> dict[str, Node | None]:
        """Return what `Node.teachers` is to hold for these teachers: they speak with what they have learnt."""
        return {name: self.adapted.get(name) for name in teachers}

    def make(self, node: Node) -> Artefact:
        """Make or reuse a node's artefact, and tell the trackers and the run's record; once for each node.

        Ranks other than 0 wait for it, and take part where they are needed.
        """
        if node.name in self.made:
            return self.made[node.name]
        stage = node.stage
        texts = StoredTexts(node.texts.path) if node.texts else None
        shown = self.info(stage, self.folder, texts)
        if self.rank:
            return self._wait_for(node, shown)
        start = time.monotonic()

        def begin(folder: Path) -> None:
            self.hooks.kdtool_stage_start(shown, node.total(folder) if node.total else None, stage.unit)
            self._give_voices(node, shown)
            node.build(replace(shown, folder=folder, hook=node.hooks() if node.hooks else self.hooks), folder)

        about = {"stage": stage.kind, "arm": stage.arm, "seed": stage.seed}
        artefact = node.where.make(*node.key, build=begin, waiting=self.say, about=about)
        self.hooks.kdtool_stage_end(shown, time.monotonic() - start, artefact.reused)
        self.stages.append(StageRecord(node.name, node.fingerprint, artefact.seconds, artefact.reused, artefact.path))
        self.made[node.name] = artefact
        return artefact

    def _wait_for(self, node: Node, shown: RunInfo) -> Artefact:
        def join(folder: Path) -> bool:
            if node.join is None:
                return False
            self._give_voices(node, shown)
            return node.join(replace(shown, folder=folder, hook=node.hooks() if node.hooks else self.hooks), folder)

        self.made[node.name] = wait_for(node, join)
        return self.made[node.name]

    def seconds(self, node: Node) -> float:
        """Return what making a node took, whenever that was; it has been made or reused."""
        return self.made[node.name].seconds

    def _give_voices(self, node: Node, run: RunInfo) -> None:
        """Have each teacher that the node asks speak with the model that the node says."""
        for name, source in node.teachers.items():
            if self._voices.get(name) is not source:
                self.hooks.kdtool_adapted.of(name)(run, None if source is None else source.path / MODEL)
                self._voices[name] = source

    def _silent_info(self) -> RunInfo:
        return self.info(Stage("run"), self.folder)

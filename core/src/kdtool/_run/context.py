"""What the stages of a run share: components, folders, fingerprints of components, and how a stage is told to trackers."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import Assembly
from kdtool._contract.data import Example, Split, TextSource
from kdtool._contract.licences import Licensed
from kdtool._contract.reporting import StageRecord
from kdtool._contract.run_info import Hooks, RunInfo
from kdtool._contract.teacher import Teacher
from kdtool._errors import KdtoolError
from kdtool._recipe.model import PhaseSpec
from kdtool._run.declared import hooks_of
from kdtool._run.distributed import joined, may_join, rank_and_world, wait_for
from kdtool._run.fingerprint import component_part
from kdtool._run.graph import Node, Stage
from kdtool._run.stages.text import StoredTexts
from kdtool._store.artefacts import Artefact, Artefacts, verify
from kdtool._store.layout import MODEL
from kdtool._store.locks import is_led
from kdtool._tokenizers.vocabulary import Vocabularies

__all__ = ["Context", "NoTexts"]


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

    `verify` hashes also what is reused and not read; `leader` is what rank 0 of several says of itself.
    `adapted` holds the nodes with what teachers learnt in phases of their own, by component; `names` what measured subjects
    are called in this run, by the name of the node that measures them and what its artefact calls them.
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
    verify: bool = False
    leader: dict[str, Any] | None = None
    vocabularies: dict[str, Vocabularies] = field(default_factory=dict)
    made: dict[str, Artefact] = field(default_factory=dict)
    adapted: dict[str, Node] = field(default_factory=dict)
    names: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    _voices: dict[str, Node | None] = field(default_factory=dict)
    _tokenizers: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        assembly: Assembly,
        folder: Path,
        store: Path,
        *,
        offline: bool = True,
        licences: tuple[Licensed, ...] = (),
        verify: bool = False,
    ) -> Context:
        """Return the context of a run in `folder`, as this process sees it."""
        rank, world = rank_and_world()
        stored, own = Artefacts(store), Artefacts(folder)
        hooks = assembly.hooks()
        return cls(assembly, folder, stored, own, offline, hooks, rank, world, licences=licences, verify=verify)

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
        """Show the user a line, on rank 0. All trackers get it; where none of them shows it, it goes to the terminal."""
        if self.rank:
            return
        self.hooks.kdtool_message(self._silent_info(), text)
        if not self.assembly.shows_messages():
            self.assembly.complain(text)

    def part(self, name: str, phase: PhaseSpec | None = None) -> dict[str, Any]:
        """Return what stands for a component in fingerprints."""
        return component_part(self.assembly.built_for(phase)[name], self.identities.get(name))

    def tokenizers(self, teachers: Collection[str]) -> dict[str, list[Any]]:
        """Return what stands in fingerprints for the tokenizers of those teachers that have one; opened once in a run."""
        having = [name for name in teachers if name in self.hooks.implementing("kdtool_tokenizer")]
        for name in having:
            if name not in self._tokenizers:
                found = None
                with suppress(KdtoolError):  # one that cannot tell its tokenizer gives it to nobody else either
                    found = self.hooks.component(name, Teacher).kdtool_tokenizer(self._silent_info())
                about = [found.fingerprint, list(found.document_start), found.chat_fingerprint] if found else []
                self._tokenizers[name] = about
        return {name: self._tokenizers[name] for name in having if self._tokenizers[name]}

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
            for source in node.sources.values():
                verify(source.path)
            self.hooks.kdtool_stage_start(shown, node.total(folder) if node.total else None, stage.unit)
            self._give_voices(node, shown)
            with hooks_of(self.assembly, self.hooks, node) as hooks, joined(folder, self.leader):
                node.build(replace(shown, folder=folder, hook=hooks), folder)

        about = {"stage": stage.kind, "arm": stage.arm, "seed": stage.seed}
        artefact = node.where.make(*node.key, build=begin, waiting=self.say, about=about)
        if self.verify and artefact.reused:
            verify(artefact.path)
        self.hooks.kdtool_stage_end(shown, time.monotonic() - start, artefact.reused)
        self.stages.append(StageRecord(node.name, node.fingerprint, artefact.seconds, artefact.reused, artefact.path))
        self.made[node.name] = artefact
        return artefact

    def _wait_for(self, node: Node, shown: RunInfo) -> Artefact:
        def join(folder: Path) -> bool:
            if node.join is None or not may_join(folder, self.leader):
                return False
            self._give_voices(node, shown)
            with hooks_of(self.assembly, self.hooks, node) as hooks:
                return node.join(replace(shown, folder=folder, hook=hooks), folder)

        self.made[node.name] = wait_for(node, join, partial(is_led, self.folder, self.leader))
        return self.made[node.name]

    def seconds(self, node: Node) -> float:
        """Return what making a node took, whenever that was; it has been made or reused."""
        return self.made[node.name].seconds

    def _give_voices(self, node: Node, run: RunInfo) -> None:
        """Have each teacher that the node asks speak with the model that the node says."""
        for name, source in node.teachers.items():
            if self._voices.get(name) is not source:
                self.hooks.component(name, Teacher).kdtool_adapted(run, None if source is None else source.path / MODEL)
                self._voices[name] = source

    def _silent_info(self) -> RunInfo:
        return self.info(Stage("run"), self.folder)

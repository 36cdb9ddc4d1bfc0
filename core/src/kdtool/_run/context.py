"""State shared by the stages of a run: components, folders, fingerprints of components, the store, and events for trackers.

The hooks of a node refuse teachers that it does not ask. Of such a teacher only the tokenizer is there, and its shapes if a
source of the node asked it. Only a teacher that the node asks has the weights that the node expects. So a teacher that a
component does not declare (`derives_from`, `asks`, a loss's teacher) cannot leave stale results.

The remote level of a store is provided by a plugin, which `open_remote` opens.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

from kdtool._assembly.assemble import Assembly
from kdtool._contract.data import Example, Split, TextSource
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import ModelFacts, Runtime, Tokenizer
from kdtool._contract.licences import Licensed
from kdtool._contract.reporting import StageRecord
from kdtool._contract.run_info import Hooks, Named, RunInfo
from kdtool._contract.sources import Teacher
from kdtool._contract.training import Student
from kdtool._errors import KdtoolError, PluginError, ServiceError, UsageError
from kdtool._plugins.distributions import STORES, install_command
from kdtool._plugins.registry import call_plugin, entries_by_name
from kdtool._recipe.model import PhaseSpec
from kdtool._run.graph import Node, component_part, tokenizer_part
from kdtool._run.ranks import DividedRuntime, invite_ranks, may_join, rank_and_world, wait_for
from kdtool._run.stages.text import StoredTexts
from kdtool._store.artefacts import Artefact, Artefacts, verify
from kdtool._store.shared import MODEL, Remote, address_of, is_led
from kdtool._text.terminal import erase_line
from kdtool._tokenizers import Vocabularies


class NoTexts:
    """The `TextSource` before the text artefact is there."""

    def examples(self, split: Split) -> Iterator[Example]:
        """Refuse.

        Raises:
            LookupError: always.
        """
        raise LookupError(f"the text of split {split!r} does not exist yet at this point of the run")


@dataclass
class Context:
    """One run in progress, in one of its processes: `rank` of `world`.

    `leader` is the record of rank 0's process.
    `is_worker` is True if an executor started this process, so that stages are made here for another one.
    `forecast` is True if the graph is only read, so that tokenizers may be missing.
    `adapted` holds the last node that trained a teacher, by teacher.
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
    forecast: bool = False
    leader: dict[str, Any] | None = None
    is_worker: bool = False
    vocabularies: dict[str, Vocabularies] = field(default_factory=dict)
    made: dict[str, Artefact] = field(default_factory=dict)
    adapted: dict[str, Node] = field(default_factory=dict)
    _loaded: dict[str, Node | None] = field(default_factory=dict)
    _tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, assembly: Assembly, folder: Path, store: Path, *, offline: bool = True, licences: tuple[Licensed, ...] = ()
    ) -> Context:
        """Return the context of a run in `folder`, for this process."""
        hooks, ranks = assembly.hooks(), rank_and_world()
        remote = None if ranks[0] else open_remote(store)  # the others find what rank 0 fetched
        shared, own = Artefacts(store, remote, "store"), Artefacts(folder, remote, f"runs/{assembly.recipe.name}")
        return cls(assembly, folder, shared, own, offline, hooks, *ranks, licences=licences)

    def info(self, node: Node | None = None, texts: TextSource | None = None) -> RunInfo:
        """Return the view of the run that components have while a node is made, or outside of all nodes."""
        run = RunInfo(
            name=self.assembly.recipe.name,
            stage="run",
            folder=self.folder,
            hook=self.hooks,
            texts=texts or NoTexts(),
            rank=self.rank,
            world=self.world,
            offline=self.offline,
            say=self.say,
            licences=self.licences,
            store=self.store.root,
            stage_title="run",
        )
        if node is None:
            return run
        phase = node.phase.name if node.phase else ""
        run = replace(run, stage=node.kind, label=node.label, stage_title=node.title, phase=phase)
        return replace(run, arm=node.arm, seed=node.seed)

    def say(self, text: str) -> None:
        """Show the user a line, on rank 0. All trackers get it; if none of them shows it, it goes to the terminal."""
        if self.rank:
            return
        erase_line()
        self.hooks.kdtool_message(self.info(), text)
        if not self.assembly.shows_messages():
            self.assembly.complain(text)

    def part(self, name: str, phase: PhaseSpec | None = None) -> dict[str, Any]:
        """Return the part of a fingerprint that stands for a component."""
        return component_part(self.assembly.built_for(phase)[name], self.identities.get(name))

    def tokenizer_of(self, name: str, run: RunInfo | None = None) -> Tokenizer:
        """Return the tokenizer of the student or a teacher."""
        kind: type[Student | Teacher] = Teacher if name in self.assembly.of_kind("teacher") else Student
        found = self.hooks.component(name, kind).kdtool_tokenizer(run or self.info())
        if found is None:
            wrong = PluginError if kind is Student else UsageError
            raise wrong(f"{self.hooks.owner(name)} has no tokenizer: return one from kdtool_tokenizer")
        return found

    def tokenizer_part(self, name: str) -> dict[str, Any]:
        """Return the parts of fingerprints for the tokenizer of the student or a teacher; opened once in a run.

        Raises:
            ServiceError: it is not on this machine, and the graph is not for a forecast, which then has no parts for it.
        """
        if name not in self._tokenizers:
            with suppress(ServiceError) if self.forecast else nullcontext():
                self._tokenizers[name] = tokenizer_part(self.tokenizer_of(name))
        return self._tokenizers.setdefault(name, {})

    def tokenizers(self, teachers: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return parts of fingerprints for the tokenizers of those teachers that have one."""
        for name in {*teachers} & {*self.hooks.implementing("kdtool_tokenizer")}:
            with suppress(KdtoolError):  # then no other component can get its tokenizer either
                self.tokenizer_part(name)
        return {name: self._tokenizers[name] for name in teachers if self._tokenizers.get(name)}

    def weights_of(self, teachers: Iterable[str]) -> dict[str, Node | None]:
        """Return each teacher with the node that trained it last; None for its original weights."""
        return {name: self.adapted.get(name) for name in teachers}

    def make(self, node: Node) -> Artefact:
        """Make or reuse a node's artefact, and notify the trackers and the run's record; once for each node.

        Ranks other than 0 wait for it, and take part where they are needed.
        """
        if node.name not in self.made:
            shown = self.info(node, StoredTexts(node.texts.path) if node.texts else None)
            self.made[node.name] = self._wait_for(node, shown) if self.rank else self._make(node, shown)
        return self.made[node.name]

    def _make(self, node: Node, shown: RunInfo) -> Artefact:
        start = time.monotonic()

        def begin(folder: Path) -> None:
            for source in node.sources.values():
                verify(source.path)
            self.hooks.kdtool_stage_start(shown, node.total(folder) if node.total else None, node.unit)
            self._load_weights(node, shown)
            with hooks_of(self.assembly, self.hooks, node) as hooks, invite_ranks(folder, self.leader):
                node.build(replace(shown, folder=folder, hook=hooks), folder)

        about = {"stage": node.kind, "arm": node.arm, "seed": node.seed}
        artefact = node.where.make(*node.key, build=begin, waiting=self.say, about=about)
        self.hooks.kdtool_stage_end(shown, time.monotonic() - start, artefact.reused)
        self.stages.append(node.record(artefact.seconds, artefact.path, reused=artefact.reused))
        return artefact

    def _wait_for(self, node: Node, shown: RunInfo) -> Artefact:
        def join(folder: Path) -> bool:
            if node.join is None or not may_join(folder, self.leader):
                return False
            self._load_weights(node, shown)
            with hooks_of(self.assembly, self.hooks, node) as hooks:
                return node.join(replace(shown, folder=folder, hook=hooks), folder)

        # Rank 0 of a worker is a process of torchrun, which ends the others with it, and may outlive the process of the run.
        led = (lambda: True) if self.is_worker else partial(is_led, self.folder, self.leader)
        return wait_for(node, join, led)

    def _load_weights(self, node: Node, run: RunInfo) -> None:
        """Load the weights that this node expects into each teacher that it asks."""
        for name, source in node.teachers.items():
            if self._loaded.get(name) is not source:
                self.hooks.component(name, Teacher).kdtool_load_weights(run, source.path / MODEL if source else None)
                self._loaded[name] = source


@contextmanager
def hooks_of(assembly: Assembly, shared: Hooks, node: Node) -> Iterator[Hooks]:
    """Yield the hooks with which a node is made; `shared` are those of the run. Components of a phase close at the end."""
    hidden = {
        name: _Undeclared(name, cast("Teacher", teacher), node.title, inherited=name in node.known_teachers)
        for name, teacher in assembly.of_kind("teacher").items()
        if name not in node.teachers
    }
    if not hidden and node.phase is None:
        yield shared
        return
    with assembly.scope(node.phase, hidden) as hooks:
        yield hooks


class _Undeclared(Teacher):
    """Replaces a teacher in a node that does not ask it. Its tokenizer is in the fingerprints of components that use it.

    With `inherited` a source of the node asked it, so that its settings are in the node's fingerprint.
    """

    def __init__(self, name: str, teacher: Teacher, stage: str, *, inherited: bool) -> None:
        super().__init__(teacher.config)
        self._name, self._teacher, self._stage, self._inherited = name, teacher, stage, inherited

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise PluginError(
            f"{self._stage}: asks {self._name}, which none of its components declares, so a change of that teacher would "
            "go unnoticed. Name the teacher in the component's `derives_from` (a student, a corpus) or `asks` (an evaluator)"
        )

    def kdtool_tokenizer(self, run: RunInfo) -> Tokenizer | None:
        return self._teacher.kdtool_tokenizer(run)

    def kdtool_describe(self, run: RunInfo) -> ModelFacts | None:
        return self._teacher.kdtool_describe(run) if self._inherited else self._refuse()

    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        return self._refuse() if subject.role == "teacher" else None

    kdtool_signal = kdtool_answer = kdtool_trainable = _refuse


def refuse_network(store: Path) -> None:
    """Refuse a store that needs a network.

    Raises:
        UsageError: it is in a bucket.
    """
    if not (address_of(store) or "file://").startswith("file://"):
        raise UsageError(
            f"--store {address_of(store)} needs a network, which --offline forbids; leave out one of the two"
        )


def refuse_executor(store: Path) -> None:
    """Refuse an executor with a remote store: each worker would hold separate leases, and upload what it makes.

    Raises:
        UsageError: the store is a remote one.
    """
    if address := address_of(store):
        raise UsageError(
            f"--store {address} is a remote store, which `executor` cannot use; it needs a folder that all machines share: "
            "choose such a --store, or leave out `executor`"
        )


def open_remote(store: Path) -> Remote:
    """Return the remote level of the store with the local folder `store`, or an empty one.

    Raises:
        UsageError: no plugin for remote stores is installed.
        PluginError: several are, or it cannot be imported.
    """
    address = address_of(store)
    if address is None:
        return Remote()
    if "remote" not in entries_by_name(STORES):
        package = f"kdtool-cloud[{address.partition('://')[0]}]"
        raise UsageError(
            f"--store {address} is not a local folder, and the package for remote stores is not installed; get it with: "
            f"{install_command(package)}"
        )
    remote: Remote = call_plugin(STORES, "remote", address, store)
    return remote


UNADAPTED = ".unadapted"
"""Suffix of a teacher's name: the subject is the teacher as it was before phases of the run trained it."""


def open_subject(run: RunInfo, subject: Subject) -> Named[Runtime] | None:
    """Open a subject and return (name, value): the component that opened it, and the runtime; None if none can.

    A teacher or reference is opened by its own component, which it is named after, perhaps with the suffix `UNADAPTED`. All
    other subjects are opened by the first component that can. For a model in memory the name is "". The caller closes the
    runtime. While several processes measure (`run.world`), all of them answer its requests and score its texts.
    """
    if (runtime := subject.open_runtime()) is not None:
        return Named("", runtime)
    opened = open_here(run, subject)
    if opened is None or run.world == 1 or run.stage != "scores":
        return opened
    return Named(opened.name, DividedRuntime(opened.value, subject, run.folder, run.world))


def open_here(run: RunInfo, subject: Subject) -> Named[Runtime] | None:
    """Open a subject for this process only."""
    owner = run.hook.owner
    name = subject.name if owner(subject.name) else subject.name.removesuffix(UNADAPTED)
    if subject.role in ("teacher", "reference") and owner(name):
        runtime = run.component(name, Teacher).kdtool_open(run, replace(subject, role="teacher"))
        return None if runtime is None else Named(name, runtime)
    opened: Named[Runtime] | None = run.hook.kdtool_open(run, subject)
    return opened

"""The surroundings of a component: its run and stage, other components, and the folder for its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from kdtool._contract.data import TextSource
from kdtool._contract.licences import Licensed, published_name

K = TypeVar("K")
N = TypeVar("N")


class Named(NamedTuple, Generic[N]):
    """An answer and the name of the component that gave it."""

    name: str
    value: N


@dataclass(frozen=True)
class Owner:
    """The plugin that provides a component: for messages."""

    name: str
    kind: str
    use: str
    distribution: str
    version: str

    def __str__(self) -> str:
        origin = f"{self.use}, {self.distribution} {self.version}".rstrip(", ") if self.distribution else self.use
        return f"{self.kind} '{self.name}' ({origin})"


class Hooks(Protocol):
    """The components of a run. `hooks.kdtool_x(…)` calls all that implement the hook, in the order of the recipe.

    A hook that answers returns the answers by component name, None left out; `kdtool_open` returns the first answer with
    the name of the component. A tracker that raises is disabled for the rest of the run; any other exception reaches the
    caller. Every call goes through pluggy, with all wrappers around it.
    """

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        """Return the call of a hook of all components."""

    def component(self, name: str, kind: type[K]) -> K:
        """Return one component; `kind` is its base class.

        Its hooks are called through pluggy. An optional hook that it does not implement returns None.

        Raises:
            UsageError: the run does not use a component of that name and kind.
            PluginError: calling a hook of it that must answer, and that it does not implement.
        """

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Return the names of the components that implement a hook, in the order of the recipe."""

    def bound(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Return the hook of each component that implements it, for hot or compiled loops: take it once.

        They are plain bound methods, without checks and tracing, as long as no component wraps the hook.
        """

    def owner(self, name: str) -> Owner | None:
        """Return the plugin that provides a component, for messages; None for an unknown name."""


@dataclass(frozen=True)
class RunInfo:
    """A component's access to the run. Write only into `folder`.

    `hook.kdtool_x(…)` calls a hook of all components that implement it, in the order of the recipe, and returns
    their answers by component name; `component` reaches one of them. `texts.examples(split)` yields the examples of a split.

    `arm` is "student", "control" (equal tokens) or "control-time" (equal wall time), "control-self" or "control-self-time"
    (the same on the untrained student's samples), or the name of a teacher that is trained. `stage` is the kind of artefact
    being made; for a phase of training, `phase` is its name. `label` distinguishes artefacts of one kind, such as
    "perplexity-student" among the scores; "" if there is only one. `rank` and `world` count processes. `say` shows a line
    to the user. `licences` are the terms of the run's components, and the student's use of them. `untrained` is the
    untrained student's folder while exporters check it (`kdtool_check`), and while a corpus of `control: {self: …}`
    samples from it. `time` is when an event happened, in seconds since 1970; only trackers get it. `store` is the folder
    that runs share, for paid answers; None where there is none. `stage_title` is the stage in words, such as "training of
    student, seed 0".
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
    untrained: Path | None = None
    time: float = 0.0
    store: Path | None = None
    stage_title: str = ""

    @property
    def stage_name(self) -> str:
        """The stage's name in `StageRecord`s and plans, such as `phases/student-seed0-train`. Since 0.1."""
        return "/".join(filter(None, (self.stage, self.label)))

    @property
    def published_name(self) -> str:
        """The name required of a published model of the run, such as one that begins with a teacher's name. Since 0.1."""
        return published_name(self.name, self.licences)

    def component(self, name: str, kind: type[K]) -> K:
        """Return one component, to call its hooks; `kind` is its base class. Since 0.1.

        An optional hook that it does not implement returns None.

        Raises:
            UsageError: the run does not use a component of that name and kind.
            PluginError: calling a hook of it that must answer, and that it does not implement.
        """
        return self.hook.component(name, kind)

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Return the names of the components that implement a hook, in the order of the recipe. Since 0.1."""
        return self.hook.implementing(hook)

    def bound(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Return each component's hook as a plain function for hot or compiled loops: take it once. Since 0.1."""
        return self.hook.bound(hook)

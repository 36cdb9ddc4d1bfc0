"""The trackers: wrappers around all hooks, and the files at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import kdtool

from kdtool_profile._recorder import Recorder

__all__ = ["COMPILED", "Profile", "ProfileLosses"]

T = TypeVar("T", bound=type[kdtool.Tracker])

COMPILED = frozenset({"kdtool_token_loss", "kdtool_token_gradient", "kdtool_token_weight"})
"""Hooks that a trainer may compile, and calls some thirty times per step. Wrapped, they could not be compiled."""


def _declared_hooks() -> set[str]:
    """Return the name of every hook that can be wrapped."""
    public = [getattr(kdtool, name) for name in dir(kdtool)]
    kinds = [kind for kind in public if isinstance(kind, type) and issubclass(kind, kdtool.Component)]
    return {name for kind in kinds for name in vars(kind) if name.startswith("kdtool_")} - {"kdtool_close"}


def _wrapping(hooks: Collection[str]) -> Callable[[T], T]:
    """Return a class decorator that adds a wrapper for each of `hooks` that the class does not implement."""

    def add_wrappers(cls: T) -> T:
        for hook in hooks:
            if hook not in vars(cls):
                setattr(cls, hook, _wrapper(hook))
        return cls

    return add_wrappers


def _wrapper(hook: str) -> Callable[..., Any]:
    memory = hook not in COMPILED  # a look at the GPU's memory takes longer than a small loss

    @kdtool.hookimpl(wrapper=True)
    def measure(self: Profile, component: str) -> Generator[None, Any, Any]:
        recorder = self._recorder
        recorder.enter(component, hook, memory=memory)
        try:
            answer = yield
        finally:
            recorder.leave()
        return recorder.pass_on(answer, component, hook) if isinstance(answer, Iterator) else answer

    measure.__name__ = hook
    return measure


@_wrapping(_declared_hooks() - COMPILED)
class Profile(kdtool.Tracker):
    """Measures time and memory of every hook of a run, as a table and a flame graph.

    Writes `profile.html`, `profile.json` and `speedscope.json` to `profile/` in the run's folder. Losses and
    weightings of tokens are left out, so that they can be compiled; `profile-losses` measures them, too.
    """

    synchronous = True  # stages are frames of the thread that makes them

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._begin()

    def kdtool_stage_start(self, run: kdtool.RunInfo, total: int | None, unit: str) -> None:
        self._recorder.enter("", run.stage_title)

    def kdtool_stage_end(self, run: kdtool.RunInfo, seconds: float, reused: bool) -> None:
        if not reused:
            self._recorder.leave_stage()
        self._stages.append({"name": run.stage_name, "title": run.stage_title, "seconds": seconds, "reused": reused})

    def kdtool_run_end(
        self, run: kdtool.RunInfo, status: Literal["done", "failed", "interrupted"], report: Path | None
    ) -> None:
        from kdtool_profile._files import write_files
        from kdtool_profile._table import summary, table

        recorder, stages = self._recorder, self._stages
        self._begin()
        recorder.finish()
        folder, rows = run.folder / "profile", table(recorder)
        if folder.exists() and all(stage["reused"] for stage in stages):
            return  # the profile of the process that made the stages says more
        write_files(folder, run.name, status, recorder, stages)
        run.say(f"{summary(rows)}; see profile/profile.html in the run's folder")

    def _begin(self) -> None:
        self._recorder = Recorder()
        self._stages: list[dict[str, Any]] = []


@_wrapping(COMPILED)
class ProfileLosses(Profile):
    """Measures losses and weightings of tokens, too; for trainers that do not compile them (`compile: "off"`)."""

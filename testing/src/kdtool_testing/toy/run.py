"""A run for tests: its folder, the components that `run.hook` reaches, and a tracker that listens. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool import Component, Example, RunInfo, Split, Tracker
from kdtool._plugins.hooks import ComponentHooks

__all__ = ["Listener", "make_run"]


class _ListTexts:
    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def examples(self, split: Split) -> Iterator[Example]:
        return (example for example in self._examples if example.split == split)


def make_run(
    folder: Path,
    components: Mapping[str, Component] | None = None,
    examples: Sequence[Example] = (),
    **fields: Any,
) -> RunInfo:
    """Return a run's surroundings for tests.

    Args:
        folder: the folder that the component may write into.
        components: what `run.hook` reaches, by name.
        examples: what `run.texts` gives.
        fields: further fields of `RunInfo`, for instance `seed` or `offline`.
    """
    given = {"name": "test", "stage": "test", **fields}
    return RunInfo(folder=folder, hook=ComponentHooks(components or {}), texts=_ListTexts(examples), **given)


class Listener(Tracker):
    """A tracker that records progress."""

    def __init__(self) -> None:
        super().__init__(self.Config())
        self.progress: list[int] = []

    def kdtool_progress(self, run: RunInfo, done: int) -> None:
        self.progress.append(done)

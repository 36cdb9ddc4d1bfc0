"""The recorded calls as a file for speedscope, https://www.speedscope.app, in its documented format."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from kdtool_profile._recorder import Frame, Recorder

__all__ = ["speedscope"]


def speedscope(recorder: Recorder, name: str) -> dict[str, Any]:
    """Return the file's content: a profile for each thread, whose samples are chains of callers, weighted by own time."""
    frames: dict[str, int] = {}
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": f"kdtool-profile {version('kdtool-profile')}",
        "name": name,
        "activeProfileIndex": 0,
        "profiles": [_profile(tree, frames) for tree in recorder.trees],
        "shared": {"frames": [{"name": label} for label in frames]},
    }


def _profile(tree: Frame, frames: dict[str, int]) -> dict[str, Any]:
    samples = [(chain, frame.own("seconds")) for chain, frame in _chains(tree, [], frames)]
    return {
        "type": "sampled",
        "name": tree.label,
        "unit": "seconds",
        "startValue": 0,
        "endValue": sum(seconds for _, seconds in samples),
        "samples": [chain for chain, _ in samples],
        "weights": [seconds for _, seconds in samples],
    }


def _chains(frame: Frame, callers: list[int], frames: dict[str, int]) -> Iterator[tuple[list[int], Frame]]:
    """Yield each frame with the numbers of its callers and itself; new labels get the next numbers."""
    chain = [*callers, frames.setdefault(frame.label, len(frames))]
    yield chain, frame
    for child in list(frame.children.values()):
        yield from _chains(child, chain, frames)

"""Calls of hooks, added up while they happen: a tree for each thread, with a frame for each chain of callers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from kdtool_profile._memory import peak_gpu_memory, peak_memory

__all__ = ["Frame", "Recorder"]


@dataclass
class Frame:
    """All calls of one hook of one component by the same chain of callers; `component` is "" for a stage and the root.

    Seconds and bytes include those of `children`. Bytes count by how much the calls raised the peak of the process.
    """

    component: str
    hook: str
    calls: int = 0
    seconds: float = 0.0
    memory: int = 0
    gpu_memory: int = 0
    children: dict[tuple[str, str], Frame] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The frame's name in tables and graphs."""
        return f"{self.component}.{self.hook}" if self.component else self.hook

    def own(self, amount: str) -> Any:
        """Return the frame's seconds or bytes without those of its children."""
        return max(0, getattr(self, amount) - sum(getattr(child, amount) for child in list(self.children.values())))


class Recorder:
    """Records calls from its construction on; `home` is the tree of the thread that constructed it."""

    def __init__(
        self,
        clock: Callable[[], float] = perf_counter,
        peaks: tuple[Callable[[], int], Callable[[], int]] = (peak_memory, peak_gpu_memory),
    ) -> None:
        self._clock = clock
        self._peaks = peaks
        self.trees: list[Frame] = []
        self._stack = _Stack(self.trees)
        self.home = self._stack.root
        self._start = clock(), peaks[0](), peaks[1]()

    def enter(self, component: str, hook: str, *, memory: bool = True) -> None:
        """Begin a call in this thread. Without `memory`, its bytes count for its caller."""
        stack = self._stack
        siblings = (stack.calls[-1][0] if stack.calls else stack.root).children
        frame = siblings.get((component, hook))
        if frame is None:
            frame = siblings[component, hook] = Frame(component, hook)
        # The peaks are those of the whole process, so that only one thread may count them.
        is_measured = memory and stack.root is self.home
        before = (self._peaks[0](), self._peaks[1]()) if is_measured else None
        stack.calls.append((frame, self._clock(), before))

    def leave(self, *, calls: int = 1) -> None:
        """End the innermost call of this thread."""
        now = self._clock()
        frame, start, before = self._stack.calls.pop()
        frame.calls += calls
        frame.seconds += now - start
        if before is not None:
            frame.memory += max(0, self._peaks[0]() - before[0])
            frame.gpu_memory += max(0, self._peaks[1]() - before[1])

    def leave_stage(self) -> None:
        """End the stage that this thread is in, if it is in one."""
        if self._stack.calls and not self._stack.calls[-1][0].component:
            self.leave()

    def pass_on(self, items: Iterator[Any], component: str, hook: str) -> Generator[Any, None, Any]:
        """Yield the items of a hook's answer, and record the time that each takes to make."""
        try:
            while True:
                self.enter(component, hook)
                try:
                    item = next(items)
                except StopIteration as end:
                    return end.value
                finally:
                    self.leave(calls=0)
                yield item
        finally:
            if close := getattr(items, "close", None):
                close()

    def finish(self) -> None:
        """End what this thread is in, and the recording."""
        while self._stack.calls:
            self.leave()
        start, memory, gpu_memory = self._start
        self.home.seconds = self._clock() - start
        self.home.memory = max(0, self._peaks[0]() - memory)
        self.home.gpu_memory = max(0, self._peaks[1]() - gpu_memory)
        for tree in self.trees:
            if tree is not self.home:
                tree.seconds = sum(child.seconds for child in list(tree.children.values()))


class _Stack(threading.local):
    """The calls that this thread is in, each with its start and the peaks at that time."""

    def __init__(self, trees: list[Frame]) -> None:
        self.root = Frame("", threading.current_thread().name if trees else "kdtool")
        self.calls: list[tuple[Frame, float, tuple[int, int] | None]] = []
        trees.append(self.root)

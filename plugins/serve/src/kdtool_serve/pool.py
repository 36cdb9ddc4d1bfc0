"""The models that a server offers: which of them answers a request, which are loaded, and which cost money."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import kdtool
import psutil
from kdtool_measuring import Priced

from kdtool_serve.devices import Devices
from kdtool_serve.engine import Answer, Engine, Workers, call_loop
from kdtool_serve.errors import RequestError

_PARTS = 1 << 30
"""Shares are rounded to these parts."""


class Pool:
    """The engines of all offered models.

    Args:
        models: opens them.
        offered: names of those that may be asked, the default first; None for all.
        queue: answers that may wait for each model.
        keep: loaded models at most, beyond those in use; 0 for no limit.
        devices: improve completions at a cursor.
        shares: the share of the first model's completions that another model answers, by its name.
    """

    def __init__(
        self,
        models: kdtool.Models,
        offered: Sequence[str] | None,
        *,
        queue: int,
        keep: int,
        devices: Devices | None,
        shares: Mapping[str, float] | None,
    ) -> None:
        names = list(models.subjects if offered is None else offered)
        self.subjects = {name: models.subjects[name] for name in names}
        self.finished: Callable[[Engine, Answer], None] = lambda *_: None
        self._models = models
        self._keep = keep
        self._devices = devices or Devices()
        self._shares = shares or {}
        self._loader = Workers("loader", 1)
        self.engines = {name: self._engine(name, queue) for name in names}

    def find(self, name: str | None) -> Engine:
        """Return the engine of a model, of the first one if there is no name.

        Raises:
            RequestError: no such model is offered.
        """
        if name is None:
            return next(iter(self.engines.values()))
        name = name if name in self.engines else name.removesuffix(":latest")  # as Ollama lists it
        if name not in self.engines:
            raise RequestError(
                f"model '{name}' not found; this server has {', '.join(self.engines)}",
                status=404,
                code="model_not_found",
                param="model",
            )
        return self.engines[name]

    def draw(self, engine: Engine) -> Engine:
        """Return the engine that answers a completion: for the first model's, at random another one that has a share."""
        if engine.name != next(iter(self.engines)):
            return engine
        drawn = secrets.randbelow(_PARTS) / _PARTS
        for name, share in self._shares.items():
            if drawn < share:
                return self.engines[name]
            drawn -= share
        return engine

    def cancel(self) -> None:
        """End all answers with an error, because the server ends."""
        for engine in self.engines.values():
            answers = [*engine.running, *engine.waiting]
            for answer in answers:
                answer.put(RequestError("the server ends", status=503, code="server_ends"))
            engine.cancel(answers)

    async def stop(self) -> None:
        """Cancel all answers, and close the models whose threads end soon."""
        self.cancel()
        for _ in range(100):
            if not any(engine.admitted for engine in self.engines.values()):
                break
            await asyncio.sleep(0.02)
        for engine in self.engines.values():
            if engine.runtime is not None and not engine.admitted:
                engine.unload()
        closed = asyncio.Event()
        self._loader.submit(partial(call_loop, asyncio.get_running_loop(), closed.set))
        self._loader.stop()
        with contextlib.suppress(TimeoutError):  # a model that is loading is left to the end of the process
            await asyncio.wait_for(closed.wait(), 3)

    def _engine(self, name: str, queue: int) -> Engine:
        engine = Engine(name, lambda: self._load(name), queue=queue, loader=self._loader)
        engine.devices = self._devices
        engine.before_load = lambda: self._unload(self._keep - 1)
        engine.finished = lambda answer: self.finished(engine, answer)
        engine.idle = lambda: self._unload(self._keep)
        return engine

    def _load(self, name: str) -> kdtool.Runtime:
        needed, free = weights(self.subjects[name].path), psutil.virtual_memory().available
        if needed > free:
            raise kdtool.MemoryExceededError(
                f"{name} has weights of {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free"
            )
        return self._models.open(name)

    def _unload(self, most: int) -> None:
        """Unload idle models, first those not asked for longest, until `most` are loaded; without --keep none."""
        loaded = [engine for engine in self.engines.values() if engine.runtime is not None]
        idle = sorted((engine for engine in loaded if not engine.admitted), key=lambda engine: engine.used)
        for engine in idle[: max(0, len(loaded) - most)] if self._keep else ():
            engine.unload()


def weights(path: Path | None) -> int:
    """Return the bytes of a model's files; 0 if they are not known."""
    if path is None:
        return 0
    files = [path] if path.is_file() else path.glob("*")
    return sum(file.stat().st_size for file in files if file.suffix in {".safetensors", ".gguf", ".bin", ".onnx"})


def smallest_file(models: kdtool.Models) -> str:
    """Return the name of the student, or of its smallest exported file that an installed exporter opens."""
    group, first = "kdtool.exporters", next(iter(models.subjects))
    files = {} if models.results is None else {file.arm: file.artifact for file in models.results.exported_files()}
    names, installed = [first], kdtool.list_plugins(group)
    for name, subject in models.subjects.items():
        written = files.get(subject.arm or name)
        if subject.role == "artifact" and written is not None and written.format in installed:
            opens = kdtool.load_plugin(group, written.format).kdtool_open is not kdtool.Exporter.kdtool_open
            names += [name] if opens and weights(subject.path) else []
    return min(names, key=lambda name: weights(models.subjects[name].path) or float("inf"))


def paid_teachers(models: kdtool.Models) -> set[str]:
    """Return the names of a run's teachers whose answers cost money."""
    uses = {} if models.results is None else {component.name: component.use for component in models.results.components}
    group = "kdtool.teachers"
    paid = set()
    for name in (name for name, subject in models.subjects.items() if subject.role == "teacher"):
        use = uses.get(name, "")
        if use in kdtool.list_plugins(group) and issubclass(kdtool.load_plugin(group, use), Priced):
            paid.add(name)
    return paid

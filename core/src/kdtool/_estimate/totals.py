"""Sums of estimates: memory of the greatest stage; disk, time and money of all stages.

Executors reserve the memory of each stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdtool._contract.run_info import RunForecast, RunInfo
from kdtool._estimate.forecast import AttributedEstimate, ForecastCache, ask, describe, forecast_of
from kdtool._recipe.model import ARMS, SELF
from kdtool._run.context import Context
from kdtool._run.plan import RunGraph
from kdtool._run.preflight import most_picodollars
from kdtool._run.stages.phases import training_title

_OF_TIME = (ARMS["time"], SELF[ARMS["time"]])
"""Arms that train for as long as the student did."""


@dataclass(frozen=True)
class Memory:
    """The greatest moment of a run: bytes, where, and its parts. `moments` holds all of them."""

    peak: int = 0
    at: str = ""
    parts: Mapping[str, int] = field(default_factory=dict)
    moments: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Spent:
    """Something that is written or fetched: `bytes` all together, `times` how often, `of` which component.

    `stage` is the training that writes it in words, or "". With `passing` it is gone when its stage is done: of those the
    greatest counts, not the sum.
    """

    what: str
    of: str
    bytes: int
    times: int = 1
    note: str = ""
    passing: bool = False
    stage: str = ""


@dataclass(frozen=True)
class Forecast:
    """The needs of a run. `speed` names the source of `seconds`, `prices` of `picodollars`. `unknown`: missing figures.

    `most_picodollars` is the most that answers can cost, `lacks` what this machine lacks for the run, `waiting_seconds` the
    longest wait for a service, which `seconds` leave out, as they do measuring and recording.
    """

    memory: Memory
    device_memory: Memory
    disk: tuple[Spent, ...]
    disk_bytes: int
    downloads: tuple[Spent, ...]
    steps: int
    tokens: int
    seconds: float
    speed: str
    picodollars: int
    prices: tuple[str, ...]
    cache: Mapping[str, int]
    unknown: tuple[str, ...]
    most_picodollars: int
    lacks: tuple[str, ...]
    waiting_seconds: float


def add_up(
    ahead: RunForecast,
    asked: Sequence[AttributedEstimate],
    unknown: Iterable[str],
    teachers: Mapping[str, Sequence[str]],
) -> Forecast:
    """Return the sums of components' estimates; `teachers` are those that each stage asks."""
    device = any(part.estimate.device_bytes for part in asked)
    asked = [_place(part, "device_bytes" if device else "host_bytes") for part in asked]
    seconds = {arm: sum(p.estimate.seconds * p.runs for p in asked if p.arm == arm) for arm in {p.arm for p in asked}}
    seconds |= {arm: seconds.get("student", 0.0) for arm in _OF_TIME if arm in seconds}
    runs = max((part.runs for part in asked), default=1)
    notes = [part.estimate.note for part in asked if part.estimate.seconds and part.estimate.note]
    disk = tuple(_spent(asked, "disk_bytes"))
    passing = max((spent.bytes for spent in disk if spent.passing), default=0)
    return Forecast(
        memory=_memory(ahead, asked, "host_bytes", teachers),
        device_memory=_memory(ahead, asked, "device_bytes", teachers),
        disk=disk,
        disk_bytes=passing + sum(spent.bytes for spent in disk if not spent.passing),
        downloads=tuple(_spent(asked, "download_bytes")),
        steps=runs * sum(phase.steps for phase in ahead.phases if phase.arm not in _OF_TIME),
        tokens=sum(p.estimate.tokens * p.runs for p in asked if p.phase and p.arm not in _OF_TIME),
        seconds=sum(seconds.values()),
        speed="; ".join(dict.fromkeys(notes)),
        picodollars=sum(part.estimate.picodollars * part.runs for part in asked),
        prices=tuple(dict.fromkeys(p.estimate.note for p in asked if p.estimate.picodollars and p.estimate.note)),
        cache={name: facts.cache_bytes(2) for name, facts in ahead.models.items()},
        unknown=tuple(dict.fromkeys([*unknown, *_unknown(asked)])),
        most_picodollars=sum(most_picodollars(part.estimate) * part.runs for part in asked),
        lacks=tuple(dict.fromkeys(part.estimate.lacks for part in asked if part.estimate.lacks)),
        waiting_seconds=max((part.estimate.waiting_seconds for part in asked), default=0.0),
    )


def _place(part: AttributedEstimate, where: str) -> AttributedEstimate:
    """Return the part with the memory of its models counted where they compute."""
    held = getattr(part.estimate, where) + part.estimate.compute_bytes
    return replace(part, estimate=replace(part.estimate, **{where: held}, compute_bytes=0))


def _memory(
    ahead: RunForecast, asked: Sequence[AttributedEstimate], what: str, teachers: Mapping[str, Sequence[str]]
) -> Memory:
    named = {stage for part in asked for stage in part.estimate.stages}
    unopened = {*ahead.teachers}
    moments: dict[str, dict[str, int]] = {}
    for stage in ahead.stages:
        unopened -= {*teachers.get(stage, ())}
        for moment in sorted(name for name in named if name.startswith(f"{stage}: ")) or [stage]:
            parts = moments.setdefault(moment, {})
            absent = {name for part in asked if moment in part.estimate.stages for name in part.estimate.unloads}
            absent |= unopened
            for part in asked:
                stages = part.estimate.stages
                held = bool({moment, stage} & {*stages}) if stages else part.component not in absent
                if held and (count := int(getattr(part.estimate, what))):
                    parts[part.estimate.part] = parts.get(part.estimate.part, 0) + count
    if not any(moments.values()):
        return Memory()
    at = max(moments, key=lambda moment: sum(moments[moment].values()))
    ordered = dict(sorted(moments[at].items(), key=lambda entry: -entry[1]))
    return Memory(sum(ordered.values()), at, ordered, moments)


def _spent(asked: Sequence[AttributedEstimate], what: str) -> Iterable[Spent]:
    fetched: set[str] = set()
    for part in asked:
        count = int(getattr(part.estimate, what))
        if part.estimate.download_bytes:  # several components may use one model: it is fetched once
            count = 0 if part.estimate.part in fetched else count
            fetched.add(part.estimate.part)
        if count:
            passing = bool(part.estimate.stages)
            runs = 1 if passing else part.runs
            stage = training_title(part.arm, part.phase) if part.phase else ""
            yield Spent(part.estimate.part, part.component, count * runs, runs, part.estimate.note, passing, stage)


def _unknown(asked: Sequence[AttributedEstimate]) -> Iterable[str]:
    """Yield parts without any figure, each with its note."""
    for part in asked:
        known = ("host_bytes", "device_bytes", "disk_bytes", "download_bytes", "seconds", "tokens", "picodollars")
        if part.estimate.note and not part.estimate.lacks and not any(getattr(part.estimate, what) for what in known):
            yield f"{part.estimate.part} of {part.component}: {part.estimate.note}"


def memory_of_stages(context: Context, run: RunInfo, run_graph: RunGraph) -> dict[str, tuple[int, int]]:
    """Return the bytes of main memory and of a GPU's that each stage needs at its peak; 0 for an unknown amount."""
    cache = ForecastCache()
    ahead, unknown = forecast_of(context, run, describe(context, run, cache), run_graph, cache)
    nodes = run_graph.graph.nodes
    asked = ask(context, run, ahead, run_graph, unknown)
    forecast = add_up(ahead, asked, unknown, {name: tuple(node.teachers) for name, node in nodes.items()})
    return {name: (_peak(forecast.memory, name), _peak(forecast.device_memory, name)) for name in nodes}


def _peak(memory: Memory, stage: str) -> int:
    moments = (parts for moment, parts in memory.moments.items() if moment.partition(": ")[0] == stage)
    return max((sum(parts.values()) for parts in moments), default=0)

"""Adding up: parts of one stage together, the greatest stage counts; what is spent is spent in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdtool._contract.estimates import RunForecast
from kdtool._contract.language_model import ModelFacts
from kdtool._run.preflight.run_forecast import Asked

_CONTROL_OF_TIME = "control-time"


@dataclass(frozen=True)
class Memory:
    """The greatest moment of a run: bytes, where, and its parts. `moments` holds all of them."""

    peak: int = 0
    at: str = ""
    parts: Mapping[str, int] = field(default_factory=dict)
    moments: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Spent:
    """Something that is written or fetched: `bytes` all together, `times` how often, `of` whom.

    What is `passing` is gone when its stage is done: of that the greatest counts, not the sum.
    """

    what: str
    of: str
    bytes: int
    times: int = 1
    note: str = ""
    passing: bool = False


@dataclass(frozen=True)
class Forecast:
    """What a run will take. `speed` says where `seconds` are from; `unknown` what could not be found out."""

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
    cache: Mapping[str, int]
    unknown: tuple[str, ...]


def add_up(ahead: RunForecast, asked: Sequence[Asked], unknown: Iterable[str]) -> Forecast:
    """Add up what components answered."""
    asked = _placed(asked)
    alike = [part for part in asked if part.arm != _CONTROL_OF_TIME]
    seconds = {arm: sum(p.estimate.seconds * p.runs for p in asked if p.arm == arm) for arm in {p.arm for p in asked}}
    if _CONTROL_OF_TIME in seconds:  # it trains for as long as the student did
        seconds[_CONTROL_OF_TIME] = seconds.get("student", 0.0)
    runs = max((part.runs for part in asked), default=1)
    notes = [part.estimate.note for part in asked if part.estimate.seconds and part.estimate.note]
    disk = tuple(_spent(asked, "disk_bytes"))
    passing = max((spent.bytes for spent in disk if spent.passing), default=0)
    return Forecast(
        memory=_memory(ahead, asked, "host_bytes"),
        device_memory=_memory(ahead, asked, "device_bytes"),
        disk=disk,
        disk_bytes=passing + sum(spent.bytes for spent in disk if not spent.passing),
        downloads=tuple(_spent(asked, "download_bytes")),
        steps=runs * sum(phase.steps for phase in ahead.phases if phase.arm != _CONTROL_OF_TIME),
        tokens=sum(part.estimate.tokens * part.runs for part in alike if part.phase),
        seconds=sum(seconds.values()),
        speed="; ".join(dict.fromkeys(notes)),
        picodollars=sum(part.estimate.picodollars * part.runs for part in asked),
        cache={name: cache_bytes(facts) for name, facts in ahead.models.items()},
        unknown=tuple(dict.fromkeys([*unknown, *_unknown(asked)])),
    )


def _placed(asked: Sequence[Asked]) -> list[Asked]:
    """Return the parts with what is held where models compute on the GPU, if anything is there, else on the machine."""
    where = "device_bytes" if any(part.estimate.device_bytes for part in asked) else "host_bytes"
    return [
        replace(
            part,
            estimate=replace(
                part.estimate, **{where: getattr(part.estimate, where) + part.estimate.compute_bytes}, compute_bytes=0
            ),
        )
        for part in asked
    ]


def cache_bytes(facts: ModelFacts, tokens: int = 0, itemsize: int = 2) -> int:
    """Return what keys and values of so many tokens take, by default of the whole context in 16 bits."""
    width = facts.head_size or facts.hidden // facts.heads
    return 2 * facts.layers * facts.kv_heads * width * (tokens or facts.context) * itemsize


def _memory(ahead: RunForecast, asked: Sequence[Asked], what: str) -> Memory:
    stages = list(ahead.stages)
    named = {stage for part in asked for stage in part.estimate.stages}
    first = _first_uses(ahead, asked, stages)
    moments: dict[str, dict[str, int]] = {}
    for position, stage in enumerate(stages):
        for moment in sorted(one for one in named if one.startswith(f"{stage}: ")) or [stage]:
            parts: dict[str, int] = {}
            unloaded = {name for part in asked if moment in part.estimate.stages for name in part.estimate.unloads}
            for part in asked:
                if part.component in unloaded and not part.estimate.stages:
                    continue
                count = int(getattr(part.estimate, what))
                if count and _held(part, moment, stage, position, first, ahead):
                    parts[part.estimate.part] = parts.get(part.estimate.part, 0) + count
            moments[moment] = parts
    if not any(moments.values()):
        return Memory()
    at = max(moments, key=lambda moment: sum(moments[moment].values()))
    ordered = dict(sorted(moments[at].items(), key=lambda entry: -entry[1]))
    return Memory(sum(ordered.values()), at, ordered, moments)


def _held(part: Asked, moment: str, stage: str, position: int, first: Mapping[str, int], ahead: RunForecast) -> bool:
    if part.estimate.stages:
        return moment in part.estimate.stages or stage in part.estimate.stages
    if part.component in ahead.teachers:
        return part.component in first and first[part.component] <= position
    return True


def _first_uses(ahead: RunForecast, asked: Sequence[Asked], stages: Sequence[str]) -> dict[str, int]:
    """Return the first stage that opens each model; scores are of all teachers."""
    found = dict.fromkeys(ahead.teachers, stages.index("scores")) if "scores" in stages else {}
    for part in asked:
        places = [stages.index(own) for own in (s.partition(": ")[0] for s in part.estimate.stages) if own in stages]
        for name in part.estimate.uses if places else ():
            found[name] = min(found.get(name, len(stages)), *places)
    return found


def _spent(asked: Sequence[Asked], what: str) -> Iterable[Spent]:
    fetched: set[str] = set()
    for part in asked:
        count = int(getattr(part.estimate, what))
        if part.estimate.download_bytes:  # several components may take one model: it is fetched once
            count = 0 if part.estimate.part in fetched else count
            fetched.add(part.estimate.part)
        if count:
            of = "/".join(word for word in (part.component, part.arm, part.phase) if word)
            passing = bool(part.estimate.stages)
            runs = 1 if passing else part.runs
            yield Spent(part.estimate.part, of, count * runs, runs, part.estimate.note, passing)


def _unknown(asked: Sequence[Asked]) -> Iterable[str]:
    for part in asked:
        known = ("host_bytes", "device_bytes", "disk_bytes", "download_bytes", "seconds", "tokens", "picodollars")
        if part.estimate.note and not any(getattr(part.estimate, what) for what in known):
            yield f"{part.component}: {part.estimate.part}: {part.estimate.note}"

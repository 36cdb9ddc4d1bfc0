"""Sections on a run's inputs and costs: data, stages, notes, components, and how to use the student."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kdtool
from kdtool._plugins.registry import defaults_of

from kdtool_report.html.wording import arm_order, arm_title, count, duration, percent, quantity, title


@dataclass(frozen=True)
class Block:
    """A part of the data's description: a table with a header row if there are `columns`, else names with values."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Stage:
    """The cost of all stages of a kind; `share` of the most expensive kind in percent. `state` counts the reused ones."""

    name: str
    seconds: str
    share: float
    state: str


@dataclass(frozen=True)
class Costs:
    """Costs of a run: stages made and reused, the use of the teacher's signals, and training."""

    stages: tuple[Stage, ...]
    made: str
    saved: str
    signals: str
    training: tuple[tuple[str, str, str, str, str], ...]


@dataclass(frozen=True)
class Usage:
    """An exported student: what it is and the lines that use it."""

    heading: str
    path: str
    size: str
    lines: str


def blocks(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the data's description, regardless of its shape: plain values first, then a block for each mapping or list.

    Signals and accounts are omitted here, since `costs` and `_accounts` report them.
    """
    data = {key: value for key, value in data.items() if key not in {"signal_seconds", "accounts"}}
    plain = {key: value for key, value in data.items() if not isinstance(value, Mapping) and not _is_table(value)}
    total = (
        [Block("Total", (), tuple((title(key), _plain(value, key)) for key, value in plain.items()))] if plain else []
    )
    return total + [_block(title(str(key)), value) for key, value in data.items() if key not in plain and value]


def costs(results: kdtool.Results) -> Costs:
    """Add up the time of stages and training."""
    # A stage that the run itself made and then reused (a student that all seeds share) counts once.
    records = list({(stage.name, stage.fingerprint): stage for stage in reversed(results.stages)}.values())[::-1]
    kinds: dict[str, list[kdtool.StageRecord]] = {}
    for stage in records:
        kinds.setdefault(stage.name.partition("/")[0], []).append(stage)
    most = max((sum(stage.seconds for stage in group) for group in kinds.values()), default=0.0)
    stages = tuple(_stages(kind, group, most) for kind, group in kinds.items())
    made, saved = (sum(stage.seconds for stage in records if stage.reused is was) for was in (False, True))
    return Costs(stages, duration(made), duration(saved) if saved else "", _signals(results), tuple(_training(results)))


def _stages(kind: str, records: Sequence[kdtool.StageRecord], most: float) -> Stage:
    total, reused = sum(stage.seconds for stage in records), sum(stage.reused for stage in records)
    state = "reused" if reused == len(records) else f"made, {reused} reused" if reused else "made"
    name = f"{_KINDS.get(kind, title(kind))} ({len(records)})" if len(records) > 1 else records[0].title
    return Stage(name, duration(total), 100 * total / most if most else 0.0, state)


_KINDS = {"phases": "training", "scores": "measuring", "teachers": "training of teachers"}
"""Stages of a kind in words."""


def notes(results: kdtool.Results) -> list[str]:
    """Collect what the user must know: the run's notes, then those of each training, equal ones once."""
    of_run = dict.fromkeys(results.notes)
    by_text: dict[str, list[str]] = {}
    for arm in results.arms:
        for phase, trained in arm.phases.items():
            for note in trained.notes:
                by_text.setdefault(f"{phase}: {note}", []).append(f"{arm_title(arm.arm)}, seed {arm.seed}")
    return [*of_run, *(f"{text} ({'; '.join(where)})" for text, where in by_text.items())]


def commands(run: str) -> str:
    """Return the installed commands that use a finished run, one on each line."""
    return "\n".join(f"kdtool {name} {run}" for name in sorted(defaults_of("command")))


def usage(results: kdtool.Results) -> list[Usage]:
    """List the exports of the student's first seed, with the lines that use them."""
    found = []
    for made in (file.artifact for file in results.exported_files()):
        path, folder = results.path_of(made), results.folder
        shown = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        found.append(_usage(made, shown))
    return found


def _usage(made: kdtool.Artifact, path: str) -> Usage:
    lines = made.how_to_use.strip().replace(str(made.path), path)
    heading = " ".join(filter(None, (made.format, made.quantisation)))
    return Usage(heading, path, quantity(float(made.bytes), "bytes"), lines)


def config_text(config: Mapping[str, Any]) -> str:
    """Return a component's settings on one line each."""
    return "\n".join(f"{key}: {_json(value)}" for key, value in config.items())


def _block(heading: str, value: Any) -> Block:
    named: Callable[[str], str] = str
    if _is_table(value):
        return _table(heading, "", {str(number): row for number, row in enumerate(value, 1)}, numbered=False)
    if all(isinstance(row, Mapping) for row in value.values()):
        if len(value) == 1:
            ((name, value),) = value.items()
            heading, named = f"{heading}: {name}", title
        elif set[str].intersection(*map(set, value.values())):
            return _table(heading, "", value)
        else:
            value = {f"{name}: {key}": entry for name, row in value.items() for key, entry in row.items()}
    return Block(heading, (), tuple((named(str(key)), _plain(entry, str(key))) for key, entry in value.items()))


def _is_table(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _table(heading: str, corner: str, rows: Mapping[Any, Mapping[str, Any]], *, numbered: bool = True) -> Block:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    head = (corner, *map(title, columns)) if numbered else tuple(map(title, columns))
    body = (
        ((str(name),) if numbered else ()) + tuple(_plain(row.get(key), key) for key in columns)
        for name, row in rows.items()
    )
    return Block(heading, head, tuple(body))


def _plain(value: Any, key: str = "") -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and key.endswith(("bytes", "seconds")):
        return quantity(float(value), "bytes" if key.endswith("bytes") else "s")
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return percent(value) if key.startswith("share_") else quantity(value, "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(entry) for entry in value)
    return "–" if value is None else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _signals(results: kdtool.Results) -> str:
    stages = [stage for stage in results.stages if "signals" in stage.name]
    if not stages:
        return "No signals were stored: any teacher ran during training."
    seconds, reused = sum(stage.seconds for stage in stages), all(stage.reused for stage in stages)
    timed = any(arm.arm == "control-time" for arm in results.arms)
    return (
        f"The teacher's signals took {duration(seconds)} ({'in an earlier run' if reused else 'in this run'}). All seeds, "
        "and other recipes with the same teacher and rows, use them."
        + " The control at equal wall time trained for their whole time as well, for every seed."
        * timed
    )


def _training(results: kdtool.Results) -> Iterable[tuple[str, str, str, str, str]]:
    for arm in arm_order(result.arm for result in results.arms):
        for result in sorted((item for item in results.arms if item.arm == arm), key=lambda item: item.seed):
            for phase, trained in result.phases.items():
                rate = f"{count(trained.tokens / trained.seconds)} tokens/s" if trained.seconds else "–"
                name = f"{arm_title(arm)}, seed {result.seed}, {phase}"
                yield name, count(trained.steps), count(trained.tokens), duration(trained.seconds), rate

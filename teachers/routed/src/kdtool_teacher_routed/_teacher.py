"""The teacher `routed`, and the values of the column that routes documents: each one's teacher, and misfits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import kdtool
import pydantic

if TYPE_CHECKING:
    from kdtool_teacher_routed._signals import Heads

_COLUMN = "teacher"
"""As in `_signals`, which imports torch."""


class Routed(kdtool.Teacher):
    """Several teachers as one: the value of a column of the text decides which of them teaches a document.

    A teacher is asked only about rows with its documents.
    """

    columns = frozenset({_COLUMN})
    config: Config

    class Config(kdtool.Config):
        """Settings of the teacher `routed`."""

        column: str = kdtool.Field(default="language", min_length=1)
        """The column: `language`, `source` or `licence` of documents, or a name in their `meta`."""
        teachers: Annotated[
            Mapping[str, Annotated[tuple[str, ...], pydantic.Field(min_length=1)]],
            pydantic.Field(min_length=1, max_length=255),
        ]
        """The values that each teacher teaches, by its name in the recipe (teachers.NAME); "*" stands for all others."""
        signals: tuple[Literal["logits", "sampled", "top-k", "chosen"], ...] = kdtool.Field(
            default=("logits",), min_length=1
        )
        """Signals that all these teachers offer."""

        @pydantic.field_validator("teachers")
        @classmethod
        def _one_teacher_a_value(cls, teachers: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
            of_value: dict[str, list[str]] = {}
            for name, values in teachers.items():
                for value in dict.fromkeys(values):
                    of_value.setdefault(value, []).append(name)
            doubled = [f"{value!r} ({' and '.join(names)})" for value, names in of_value.items() if len(names) > 1]
            if doubled:
                raise ValueError(f"several teachers teach {', '.join(doubled)}; name one teacher for each value")
            return teachers

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.offers = frozenset(config.signals)
        self.derives_from = dict.fromkeys(config.teachers, "signals")
        self.label_key = json.dumps([config.column, [*config.teachers.items()]])
        self._run: kdtool.RunInfo | None = None
        self._values = Values(config.column, config.teachers)
        self._heads: Heads | None = None

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        """Report teachers that do not offer the signals."""
        offers = {name: run.component(name, kdtool.Teacher).offers for name in self.config.teachers}
        return [
            f"signals: {name} does not offer {', '.join(sorted(self.offers - offered))}; "
            f"it offers {', '.join(sorted(offered))}"
            for name, offered in offers.items()
            if not self.offers <= offered
        ]

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer | None:
        """Return the tokenizer of the first teacher; the engine compares each one's with the student's."""
        self._run = self._run or run
        first, *_ = self.config.teachers
        tokenizer: kdtool.Tokenizer | None = run.component(first, kdtool.Teacher).kdtool_tokenizer(run)
        return tokenizer

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        """Yield the memory of the joined heads, if all teachers describe themselves."""
        facts = [ahead.models.get(name) for name in self.config.teachers]
        known = [each for each in facts if each is not None]
        if "logits" in self.offers and len(known) > 1:
            size = sum(each.vocabulary * each.hidden * (4 if each.dtype == "float32" else 2) for each in known)
            yield kdtool.Estimate(
                "joined heads", compute_bytes=size, note="one row of each teacher's head for each token"
            )

    def kdtool_annotate(self, example: kdtool.Example) -> Mapping[str, Sequence[int]]:
        """Return the number of the example's teacher for each character."""
        size = sum(map(len, kdtool.parts_of(example.body)))
        return {_COLUMN: bytes([self._values.number(example)]) * size}

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        from kdtool_torch import label_index

        from kdtool_teacher_routed._signals import Heads, join_signals, parts_of

        if self._run is None:
            raise kdtool.PluginError("routed: kdtool_signal was called before kdtool_tokenizer")
        parts = parts_of(batch, [*self.config.teachers])
        signals: dict[str, kdtool.Signal] = {}
        for name, part in parts.items():
            chosen = None if want.chosen is None else want.chosen[part.asked]
            teacher = self._run.component(name, kdtool.Teacher)
            signals[name] = teacher.kdtool_signal(part.of(batch), replace(want, chosen=chosen))
        self._heads = self._heads or Heads()
        return join_signals(parts, signals, len(label_index(batch)), self._heads)

    def kdtool_close(self) -> None:
        self._heads = None

    @kdtool.hookimpl(wrapper=True)
    def kdtool_rows(self) -> Generator[None, Iterator[kdtool.Row], Iterator[kdtool.Row]]:
        """Refuse text with values that no teacher has, once all of it has been packed."""
        self._values = Values(self.config.column, self.config.teachers)
        rows = yield
        return self._check(rows)

    @kdtool.hookimpl(wrapper=True)
    def kdtool_record(self, run: kdtool.RunInfo) -> Generator[None, int, int]:
        """Ask the teachers that the recording declares."""
        self._run = run
        return (yield)

    @kdtool.hookimpl(wrapper=True)
    def kdtool_train(self, run: kdtool.RunInfo, phase: kdtool.Phase) -> Generator[None, kdtool.Trained, kdtool.Trained]:
        """Ask the teachers that the phase declares."""
        self._run = run
        return (yield)

    def _check(self, rows: Iterator[kdtool.Row]) -> Iterator[kdtool.Row]:
        yield from rows
        if problems := [*self._values.problems()]:
            raise kdtool.UsageError("; ".join(problems))


OTHERS = "*"
"""Stands for every value that no teacher lists."""
_FIELDS = ("language", "source", "licence")
_SHOWN = 10


def value_of(example: kdtool.Example, column: str) -> str:
    """Return an example's value of a column: a field, or an entry of `meta`; "" if it has none."""
    return str(getattr(example, column)) if column in _FIELDS else example.meta.get(column, "")


class Values:
    """The values of one pass over the text, and what is wrong with them.

    Args:
        column: the column.
        teachers: the values that each teacher teaches, by its name.
    """

    def __init__(self, column: str, teachers: Mapping[str, Sequence[str]]) -> None:
        self._column, self._teachers = column, teachers
        self._numbers = {value: at for at, values in enumerate(teachers.values(), 1) for value in values}
        self._found: Counter[str] = Counter()
        self._columns: set[str] = set()

    def number(self, example: kdtool.Example) -> int:
        """Return the number of the example's teacher, from 1; 0 if its value has none."""
        value = value_of(example, self._column)
        self._found[value] += 1
        self._columns |= example.meta.keys()
        return self._numbers.get(value, self._numbers.get(OTHERS, 0))

    def problems(self) -> Iterator[str]:
        """Yield what is wrong, with its key: an unknown column, values without teacher, values that no document has."""
        if not self._found:  # no text of a phase that learns from this teacher
            return
        if not any(self._found):
            there = ", ".join((*_FIELDS, *sorted(self._columns - {*_FIELDS})))
            yield f"column: no document has a value of {self._column!r}; name one of {there}"
            return
        lost = {value: count for value, count in self._found.most_common() if value not in self._numbers}
        if lost and OTHERS not in self._numbers:
            shown = ", ".join(
                f"{value!r} ({kdtool.count_of(count, 'document')})" for value, count in [*lost.items()][:_SHOWN]
            )
            rest = f" and {len(lost) - _SHOWN:,} more" if len(lost) > _SHOWN else ""
            yield (
                f"teachers: no teacher has the values {shown}{rest} of {self._column!r}; add them to a teacher's list, or "
                f"give one teacher {OTHERS!r}, which stands for all others"
            )
        for name, values in self._teachers.items():
            if unknown := [value for value in values if value not in self._found and value != OTHERS]:
                known = ", ".join(repr(value) for value, _ in self._found.most_common(_SHOWN))
                yield (
                    f"teachers.{name}: no document has the values {', '.join(map(repr, unknown))} of {self._column!r}; "
                    f"there are {known}"
                )

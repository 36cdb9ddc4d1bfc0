"""Generation of the rows of `instruct` in rounds, and its record on disk.

A round requests every missing row, judges the answers in order, and requests the rejected rows again. Nothing depends
on the order in which answers arrive, so a resumed run, which finds answers in the cache, produces the same rows. Only
missing rows are requested, so quotas are never exceeded. The record (status, rows so far, rejections) is for the user,
and for `kdtool data` in another process.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_measuring import AskingProgress, Templates, priced_teacher, refusal_remedy

from kdtool_data.instruct.candidates import Candidate, Rows, Slot, code_of, plain_row, read_parts, run_tests
from kdtool_data.instruct.requests import next_slot, request_of
from kdtool_data.instruct.settings import REPAIR, WITHOUT_CODE

if TYPE_CHECKING:
    from kdtool_data.instruct.settings import Cell, InstructConfig

_BATCH = 256


class Generation:
    """One generation of all rows.

    Args:
        run: the run, with the teacher and the filters.
        config: settings of the corpus.
        templates: of all tasks.
        record: counts and files.
        folder: for journals of the tests' outcomes, one for each round.
        seeds: pieces of code or tasks.
    """

    def __init__(
        self,
        run: kdtool.RunInfo,
        config: InstructConfig,
        templates: Templates,
        record: Record,
        folder: Path,
        seeds: Sequence[str],
    ) -> None:
        self._run = run
        self._config = config
        self._templates = templates
        self._record = record
        self._folder = folder
        self._round = 0
        self._seeds = seeds
        self._dearest: int | None = None
        self._paid: set[str] = set()
        self._accepted = 0
        priced = priced_teacher(run, config.ask)
        self._progress = AskingProgress(run, config.rows, priced.spent if priced else None, "rows")
        versions = {name: templates.version(name) for name in (REPAIR, *{cell.task for cell in record.cells})}
        teacher, owner = run.component(config.ask, kdtool.Teacher), run.hook.owner(config.ask)
        model = str(getattr(teacher.config, "model", "") or (owner.use if owner else ""))
        licences = [each.terms.licence for each in run.licences if each.component == config.ask]
        self._rows = Rows(config, teacher.answer_key, model, licences[0] if licences else "", versions)
        filters = run.implementing("kdtool_filter")  # the phase's own if it has any, else the recipe's
        of_phase = [name for name in filters if name.startswith(f"train.{run.label}.")]
        self._filters = of_phase or [name for name in filters if not name.startswith("train.")]

    def rows(self) -> Iterator[kdtool.Example]:
        """Yield accepted rows until every cell is full or closed.

        Raises:
            UsageError: the teacher refuses everything.
            PluginError: the teacher does not answer a request.
        """
        fresh = (Slot(cell, number) for cell, tally in self._record.cells.items() for number in range(tally.wanted))
        again: list[Slot] = []
        while slots := self._choose(chain(again, fresh)):
            chosen, deferred = slots
            again = deferred
            with_seeds = self._config, self._templates, self._seeds, self._run.seed
            asked = [(slot, *request_of(slot, *with_seeds)) for slot in chosen]
            answers = self._ask([request for _, request, _ in asked])
            self._round += 1
            candidates = [Candidate(slot, request, answers[request.id], values) for slot, request, values in asked]
            for start in range(0, len(candidates), _BATCH):
                yield from self._judge(candidates[start : start + _BATCH], again)

    def _choose(self, slots: Iterator[Slot]) -> tuple[list[Slot], list[Slot]] | None:
        """Return the slots of the next round and those that wait for a known price; None at the end."""
        chosen: list[Slot] = []
        deferred: list[Slot] = []
        planned: dict[Cell, int] = {}
        for slot in slots:
            tally = self._record.cells[slot.cell]
            allowed = self._limit_of(slot.cell)
            if tally.asked >= self._config.most_requests(tally.wanted):
                tally.closed = tally.closed or "candidates"
            elif planned.get(slot.cell, 0) < allowed:
                tally.asked += 1
                planned[slot.cell] = planned.get(slot.cell, 0) + 1
                chosen.append(slot)
            elif allowed:
                deferred.append(slot)
            else:
                tally.closed = tally.closed or "dollars"
            if len(chosen) + len(deferred) >= self._config.round:
                break
        return (chosen, deferred) if chosen else None

    def _limit_of(self, cell: Cell) -> float:
        """Return the requests of a round that fit into the cell's dollars, at the dearest price so far."""
        limit = self._config.picodollars
        if limit is None or self._dearest == 0:
            return float("inf")
        return 1 if self._dearest is None else max(0, limit - self._record.cells[cell].picodollars) // self._dearest

    def _ask(self, requests: Sequence[kdtool.Request]) -> dict[str, kdtool.TextAnswer]:
        """Return the answers by id."""
        self._record.write_status("asking", now=True)
        answers: dict[str, kdtool.TextAnswer] = {}
        for answer in self._run.component(self._config.ask, kdtool.Teacher).kdtool_answer(iter(requests)):
            answers[answer.id] = answer
            self._record.write_status("asking")
            self._progress.show(self._accepted)
        missing = next((request.id for request in requests if request.id not in answers), None)
        if missing is not None:
            raise kdtool.PluginError(
                f"{self._run.hook.owner(self._config.ask)} returned no answer to {missing!r}; kdtool_answer must yield one "
                "per request"
            )
        refusals = [answer.reason for answer in answers.values() if answer.finish == "refused" and answer.reason]
        if not self._accepted and len(refusals) == len(requests):
            raise kdtool.UsageError(
                f"instruct.ask: {self._config.ask} refused each of {len(requests):,} requests ({refusals[0]}); "
                f"{refusal_remedy(refusals[0])}"
            )
        return answers

    def _judge(self, batch: Sequence[Candidate], again: list[Slot]) -> Iterator[kdtool.Example]:
        """Yield the rows of accepted candidates, and add the slots of the others to `again`."""
        teacher = self._run.component(self._config.ask, kdtool.Teacher)
        for candidate in batch:
            tally, answer = self._record.cells[candidate.slot.cell], candidate.answer
            if (key := teacher.answer_key(candidate.request)) in self._paid:  # asked before, and not paid for again
                continue
            self._paid.add(key)
            tally.tokens_in += answer.tokens_in
            tally.tokens_out += answer.tokens_out
            tally.picodollars += answer.picodollars
            if answer.finish != "refused":  # refusals may be free, and must not lower the known price
                self._dearest = max(self._dearest or 0, answer.picodollars)
        read = [self._read(candidate) for candidate in batch]
        judged = self._filter(run_tests(self._run, self._config, self._folder / f"verdicts-{self._round}.jsonl", read))
        for candidate, row in judged:
            slot = candidate.slot
            if row is not None:
                self._accepted += 1
                is_given = self._config.give == "rows" or isinstance(row.body, kdtool.Preference)
                self._record.accept(slot.cell, plain_row(row) if is_given else None)
                if is_given:
                    yield row
                continue
            about = {"id": candidate.request.id, "answer": candidate.answer.text, "error": candidate.error}
            self._record.reject(slot.cell, candidate.reason, about)
            again.append(next_slot(candidate, self._templates, self._config.repairs))
        self._record.write_status("judging")
        self._progress.show(self._accepted)

    def _read(self, candidate: Candidate) -> Candidate:
        answer, cell = candidate.answer, candidate.slot.cell
        if answer.finish == "refused":
            return candidate.reject("refused")
        if answer.finish == "length":
            return candidate.reject(f"cut off at {self._config.max_tokens} tokens")
        parts = read_parts(answer.text, tested=self._config.is_tested(cell))
        if isinstance(parts, str):
            return candidate.reject(parts, f"it has {parts} part")
        if cell.task not in WITHOUT_CODE and not code_of(parts.response, cell.language):
            error = f"it has no block of code that begins with ```{cell.language}"
            return candidate.reject(f"no code in {cell.language}", error)
        return replace(candidate, parts=parts)

    def _filter(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, kdtool.Example | None]]:
        """Return the candidates in order, each with its row, or without a row if a filter of the recipe rejected it."""
        judged: dict[str, Candidate] = {candidate.request.id: candidate for candidate in candidates}
        rows = {candidate.request.id: self._rows.make(candidate) for candidate in candidates if not candidate.reason}
        for name in self._filters:
            filter_ = self._run.component(name, kdtool.Filter)
            verdicts = filter_.kdtool_filter(self._run, list(rows.values()))
            short = name.rpartition(".")[2]
            for key, verdict in zip(list(rows), verdicts, strict=True):
                if verdict is not None:
                    is_repaired = short in self._config.repaired and verdict not in filter_.undecided
                    error = f"it was rejected: {verdict}" if is_repaired else ""
                    judged[key] = judged[key].reject(f"{short}: {verdict}", error)
                    del rows[key]
        return [(candidate, rows.get(key)) for key, candidate in judged.items()]


_STATUS_SECONDS = 1.0
_SAMPLES = 10
"""Rejected candidates that are kept per cell and reason."""
_SHOWN = 2
"""Rejected candidates per reason in a report."""
_STATUS, _REJECTED = "status.json", "rejected.jsonl"


@dataclass
class Tally:
    """Counts of a cell's requests by their outcome."""

    wanted: int
    accepted: int = 0
    asked: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    picodollars: int = 0
    closed: str = ""
    """The limit that ended the cell before it was full."""
    rejected: Counter[str] = field(default_factory=Counter)


class Record:
    """Files in a folder: `status.json` (replaced as a whole), `rows.jsonl` and `rejected.jsonl` (one line per row)."""

    def __init__(self, folder: Path, cells: Mapping[Cell, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.cells = {cell: Tally(wanted) for cell, wanted in cells.items()}
        self.given = 0
        self._written = 0.0
        self._rows = (folder / "rows.jsonl").open("w", encoding="utf-8", newline="\n")
        self._rejected = (folder / _REJECTED).open("w", encoding="utf-8", newline="\n")

    def accept(self, cell: Cell, row: Mapping[str, Any] | None) -> None:
        """Count an accepted row, and write it; None counts a row that is left out because only pairs are given."""
        self.cells[cell].accepted += 1
        if row is not None:
            self.given += 1
            self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")

    def reject(self, cell: Cell, reason: str, candidate: Mapping[str, Any]) -> None:
        """Count a rejection; write the candidate if it is among the first of its cell and reason."""
        tally = self.cells[cell]
        tally.rejected[reason] += 1
        if tally.rejected[reason] <= _SAMPLES:
            line = {"cell": str(cell), "reason": reason, **candidate}
            self._rejected.write(json.dumps(line, ensure_ascii=False) + "\n")

    def write_status(self, state: str, *, now: bool = False) -> None:
        """Replace the status, at most once per second unless `now`."""
        if not now and time.monotonic() - self._written < _STATUS_SECONDS:
            return
        self._written = time.monotonic()
        self._rows.flush()
        self._rejected.flush()
        cells = [{"cell": str(cell), **vars(tally)} for cell, tally in self.cells.items()]
        new = self._folder / f"{_STATUS}.new"
        new.write_text(json.dumps({"state": state, "written": time.time(), "cells": cells}), encoding="utf-8")
        new.replace(self._folder / _STATUS)

    def close(self, state: str) -> None:
        """Write the last status; delete the rows of a complete generation, which are in the text by then."""
        self.write_status(state, now=True)
        self._rejected.close()
        self._rows.close()
        if state == "complete":
            (self._folder / "rows.jsonl").unlink(missing_ok=True)


def read_account(folder: Path) -> Mapping[str, Any] | None:
    """Return the sums over all cells for a report, with samples of rejected candidates; None without a generation."""
    if not (folder / _STATUS).exists():
        return None
    cells = json.loads((folder / _STATUS).read_text(encoding="utf-8"))["cells"]
    names = {"rows": "accepted", "requests": "asked"} | {
        name: name for name in ("tokens_in", "tokens_out", "picodollars")
    }
    samples, shown = [], Counter[str]()
    with (folder / _REJECTED).open(encoding="utf-8") as lines:
        for candidate in map(json.loads, lines):
            reason = candidate["reason"]
            shown[reason] += 1
            if shown[reason] <= _SHOWN:
                text = f"{candidate['error']}\n\n{candidate['answer']}".strip()
                samples.append({"reason": reason, "id": candidate["id"], "text": text})
    return {
        **{name: sum(cell[key] for cell in cells) for name, key in names.items()},
        "rejected": dict(sum((Counter(cell["rejected"]) for cell in cells), Counter[str]()).most_common()),
        "samples": samples,
    }

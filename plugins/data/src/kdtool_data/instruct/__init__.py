"""The corpus `instruct`: instruction data that a teacher writes, in six programming languages.

Rows are tasks with answers. Each kind of task has a quota of rows that the recipe's filters accept. Generating them is
imported when the first example is asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_data.instruct.settings import REPAIR, InstructConfig

if TYPE_CHECKING:
    from kdtool_measuring import Templates

    from kdtool_data.instruct.generation import Record


__all__ = ["Instruct"]
FOLDER = "instruct"
"""Subfolder for status, rejections and verdicts, in the folder of the text."""
_CELLS, _REASONS = 5, 4
_CHARACTERS_A_TOKEN = 3.5
_PRICED = 1_000
"""Maximum number of requests that a teacher prices; each also represents its neighbours."""
_BYTES_A_ROW = 4_000
"""Typical size of an answer, and of the row made from it."""


class Instruct(kdtool.Corpus):
    """Tasks with answers in several programming languages, written by a teacher, with a quota for each kind."""

    config: Config

    class Config(InstructConfig):
        """Settings of `instruct`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        sources = {config.ask} if config.seeds is None else {config.ask, config.seeds}
        self.derives_from = dict.fromkeys(sorted(sources), "text")

    @cached_property
    def _templates(self) -> Templates:
        from kdtool_measuring import Templates

        return Templates(Path(__file__).with_name("templates"))

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the version of the templates, and that of the Python that runs tests."""
        python = {"python": platform.python_version()} if self.config.tested else {}
        return {"templates": self._templates.version(REPAIR), **python}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Report requirements of the sandbox that are missing."""
        if not self.config.tested:
            return []
        from kdtool_programs import missing

        return missing(self.config.tested)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        """Yield the disk space for answers and rows, and the teacher's price of one answer per row.

        The teacher's estimate includes the tokens; they are estimated here only for a teacher without prices.
        """
        from kdtool_measuring import priced_teacher

        config = self.config
        requests = self._first_requests(run)
        share = config.rows / len(requests)
        most = sum(config.most_requests(rows) for rows in config.quotas.values())
        cells, requested = kdtool.count_of(len(config.quotas), "cell"), kdtool.count_of(most, "request")
        note = f"{kdtool.count_of(config.rows, 'row')} in {cells}; {config.rows:,} to {requested} to {config.ask}"
        teacher = priced_teacher(run, config.ask)
        if teacher is None:
            prompts = share * sum(len(text) for request in requests for _, text in request.turns)
            note += (
                f"; if all are accepted about {round(prompts / _CHARACTERS_A_TOKEN):,} tokens in, and at most "
                f"{config.rows * config.max_tokens:,} out"
            )
        yield kdtool.Estimate("instruction data", disk_bytes=2 * config.rows * _BYTES_A_ROW, note=note)
        if teacher is not None:
            retries = f"up to {most / config.rows:g} times as much if rows are rejected"
            for estimate in teacher.estimate_answers(run, requests, share, most / config.rows):
                yield replace(estimate, note="; ".join(filter(None, (estimate.note, retries))))

    def _first_requests(self, run: kdtool.RunInfo) -> list[kdtool.Request]:
        """Return the requests for the rows, evenly thinned if there are many. Seeds that need a download are replaced."""
        from kdtool_data.instruct.candidates import Slot
        from kdtool_data.instruct.requests import read_seeds, request_of

        seeds = ["x = 1"] if self.config.seeds else []
        if self.config.seeds and not (corpus := run.component(self.config.seeds, kdtool.Corpus)).derives_from:
            with suppress(kdtool.ServiceError):
                seeds = read_seeds(corpus.kdtool_examples(run))
        slots = (Slot(cell, number) for cell, rows in self.config.quotas.items() for number in range(rows))
        chosen = islice(slots, 0, None, math.ceil(self.config.rows / _PRICED))
        return [request_of(slot, self.config, self._templates, seeds, run.seed)[0] for slot in chosen]

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the rows as they are accepted, in an order that depends only on the answers.

        Raises:
            kdtool.UsageError: a cell cannot be filled within its limits, or the teacher refuses everything.
            kdtool.PluginError: the teacher does not answer a request.
            kdtool_programs.SandboxError: tests cannot be run safely here.
        """
        from kdtool_data.instruct.generation import Generation, Record
        from kdtool_data.instruct.requests import read_seeds

        config = self.config
        seeds = []
        if config.seeds is not None:
            seeds = read_seeds(run.component(config.seeds, kdtool.Corpus).kdtool_examples(run))
        folder = self._folder(run)
        record, state = Record(folder, config.quotas), "interrupted"
        try:
            yield from Generation(run, config, self._templates, record, folder, seeds).rows()
            self._say_result(run, record)
            state = "complete"
        finally:
            record.close(state)

    def kdtool_account(self, run: kdtool.RunInfo) -> Mapping[str, Any] | None:
        from kdtool_data.instruct.generation import read_account

        return read_account(self._folder(run))

    def _folder(self, run: kdtool.RunInfo) -> Path:
        """Return the folder of this corpus's files; it depends on the settings."""
        settings = json.dumps(self.config.model_dump(mode="json"), sort_keys=True)
        return run.folder / FOLDER / hashlib.sha256(settings.encode()).hexdigest()[:16]

    def _say_result(self, run: kdtool.RunInfo, record: Record) -> None:
        """Report how many rows were accepted, and why others were rejected.

        Raises:
            UsageError: a cell is not full, and `fewer` is false.
        """
        tallies = record.cells.values()
        rejected = sum((tally.rejected for tally in tallies), Counter[str]())
        accepted, asked = sum(tally.accepted for tally in tallies), sum(tally.asked for tally in tallies)
        paid = sum(tally.picodollars for tally in tallies)
        summary = (
            f"instruct: {accepted:,} of {self.config.rows:,} rows accepted from {kdtool.count_of(asked, 'request')}"
        )
        summary += f", {kdtool.dollars(paid)}" if paid else ""
        summary += f"; {kdtool.count_of(record.given, 'pair')}" if self.config.give == "pairs" else ""
        run.say(summary + (f"; rejected: {_reasons(rejected)}" if rejected else ""))
        short = {cell: tally for cell, tally in record.cells.items() if tally.accepted < tally.wanted}
        first = "; ".join(
            f"{cell} has {tally.accepted} of {tally.wanted} rows after {tally.asked} requests, its limit of {tally.closed} "
            f"({_reasons(tally.rejected)})"
            for cell, tally in list(short.items())[:_CELLS]
        )
        others = f"; and {len(short) - _CELLS} more" if len(short) > _CELLS else ""
        message = f"{len(short)} of {len(record.cells)} cells cannot be filled: {first}{others}"
        if short and not self.config.fewer:
            remedy = (
                "raise candidates or dollars, ease the filters, or set fewer: true; stored answers are not asked again"
            )
            raise kdtool.UsageError(f"instruct.candidates: {message}; {remedy}")
        if short:
            run.say(f"instruct: {message}")
        if self.config.give == "pairs" and not record.given:
            raise kdtool.UsageError(
                "instruct.give: no accepted row repairs a failed answer to the same task by the same tests, so there are no "
                "pairs; raise repairs, name languages in tested or filters in repaired, or set give: rows"
            )


def _reasons(rejected: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in rejected.most_common(_REASONS))

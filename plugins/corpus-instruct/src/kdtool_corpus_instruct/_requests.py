"""Requests for rows that are missing: a template with what is drawn for it, or the next turn of a repair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kdtool
from kdtool_measuring import seed_of
from kdtool_prompts import Templates

from kdtool_corpus_instruct._candidates import Candidate, Failure, Slot
from kdtool_corpus_instruct._config import InstructConfig
from kdtool_corpus_instruct._drawing import draw
from kdtool_corpus_instruct._ideas import REPAIR, VARIABLES

__all__ = ["Requests", "key_of", "templates_of"]


def templates_of(config: InstructConfig) -> Templates:
    """Return this package's templates and the recipe's own."""
    shipped, declared = Path(__file__).with_name("templates"), VARIABLES.union(config.variables)
    return Templates(shipped, config.templates, declared, further={REPAIR: {"error"}})


@dataclass(frozen=True)
class Requests:
    """Makes requests. `seed` is the run's, `seeds` are pieces of code or tasks."""

    config: InstructConfig
    templates: Templates
    seed: int
    seeds: Sequence[str]

    def make(self, slot: Slot) -> tuple[kdtool.Request, Mapping[str, Any]]:
        """Return the request for a slot, and the variables that were drawn for it; a repair has those of the first attempt.

        Raises:
            UsageError: the template fails on these variables.
        """
        name = f"{slot.id}#{slot.attempt}"
        first = slot.attempt - len(slot.failed)
        values = draw(self.config, slot.cell, f"{self.seed}/{slot.id}/{first}", slot.number + 1, self.seeds)
        request = kdtool.Request(
            id=name,
            prompt="",
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            seed=seed_of(self.seed, name),
            turns=slot.conversation or self.templates.render(slot.cell.task, values),
        )
        return request, values

    def next_slot(self, candidate: Candidate) -> Slot:
        """Return the slot of a rejected candidate: for its repair if it can be repaired, else for another one.

        Raises:
            UsageError: the template of repairs fails.
        """
        slot = candidate.slot
        if not candidate.error or len(slot.failed) >= self.config.repairs:
            return Slot(slot.cell, slot.number, slot.attempt + 1)
        *_, asked = self.templates.render(REPAIR, {**candidate.values, "error": candidate.error})
        conversation = (*candidate.request.turns, ("assistant", candidate.answer.text), asked)
        failed = (*slot.failed, Failure(candidate.reason, candidate.answer.picodollars, candidate.parts))
        return Slot(slot.cell, slot.number, slot.attempt + 1, failed, conversation)


def key_of(request: kdtool.Request) -> str:
    """Return the SHA-256 of a request without its id, and without the seed of a greedy one, by which answers are stored."""
    left_out = {"id"} if request.temperature else {"id", "seed"}
    content = {name: value for name, value in asdict(request).items() if name not in left_out}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

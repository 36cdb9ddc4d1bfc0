"""Requests for missing rows: a template with its sampled variables, or the next message of a repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kdtool
from kdtool_asking import Templates, seed_of

from kdtool_corpus_instruct._candidates import Candidate, Failure, Slot
from kdtool_corpus_instruct._config import InstructConfig
from kdtool_corpus_instruct._drawing import draw
from kdtool_corpus_instruct._ideas import REPAIR, VARIABLES

__all__ = ["next_slot", "request_of", "templates_of"]


def templates_of(config: InstructConfig) -> Templates:
    """Return this package's templates and the recipe's own."""
    shipped, declared = Path(__file__).with_name("templates"), VARIABLES.union(config.variables)
    return Templates(shipped, config.templates, declared, further={REPAIR: {"error"}})


def request_of(
    slot: Slot, config: InstructConfig, templates: Templates, seeds: Sequence[str], seed: int
) -> tuple[kdtool.Request, Mapping[str, Any]]:
    """Return the request for a slot, and its sampled variables; a repair keeps those of the attempt that it repairs.

    Args:
        slot: the row, and the number of requests for it so far.
        config: settings of the corpus.
        templates: of all tasks.
        seeds: pieces of code or tasks.
        seed: of the run.

    Raises:
        UsageError: the template fails on these variables.
    """
    name, first = f"{slot.id}#{slot.attempt}", slot.attempt - len(slot.failed)
    values = draw(config, slot.cell, f"{seed}/{slot.id}/{first}", slot.number + 1, seeds)
    request = kdtool.Request(
        id=name,
        prompt="",
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        seed=seed_of(seed, name),
        turns=slot.conversation or templates.render(slot.cell.task, values),
    )
    return request, values


def next_slot(candidate: Candidate, templates: Templates, repairs: int) -> Slot:
    """Return the slot after a rejection: for a repair of the candidate if possible, else for a new candidate.

    Raises:
        UsageError: the template of repairs fails.
    """
    slot = candidate.slot
    if not candidate.error or len(slot.failed) >= repairs:
        return Slot(slot.cell, slot.number, slot.attempt + 1)
    *_, asked = templates.render(REPAIR, {**candidate.values, "error": candidate.error})
    conversation = (*candidate.request.turns, ("assistant", candidate.answer.text), asked)
    failed = (*slot.failed, Failure(candidate.reason, candidate.answer.picodollars, candidate.parts))
    return Slot(slot.cell, slot.number, slot.attempt + 1, failed, conversation)

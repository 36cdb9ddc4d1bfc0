"""The request for a row that is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import seed_of

from kdtool_corpus_instruct._drawing import draw

if TYPE_CHECKING:
    from kdtool_corpus_instruct._candidates import Slot
    from kdtool_corpus_instruct._config import InstructConfig
    from kdtool_corpus_instruct._templates import Templates

__all__ = ["request_of"]


def request_of(
    slot: Slot, config: InstructConfig, templates: Templates, seeds: Sequence[str], seed: int
) -> tuple[kdtool.Request, Mapping[str, object]]:
    """Return the request, and what was drawn for it.

    Args:
        slot: the row, and how often it was asked for.
        config: settings of the corpus.
        templates: of all tasks.
        seeds: pieces of code or tasks.
        seed: of the run.
    """
    values = draw(config, slot.cell, f"{seed}/{slot.id}/{slot.attempt - slot.repairs}", slot.number + 1, seeds)
    request = kdtool.Request(
        id=f"{slot.id}#{slot.attempt}",
        prompt="",
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        seed=seed_of(seed, f"{slot.id}#{slot.attempt}"),
        turns=slot.conversation or templates.render(slot.cell.task, values),
    )
    return request, values

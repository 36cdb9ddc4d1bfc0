"""Sample the variables that make each request different: subject, setting, seeds, the recipe's own variables."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_corpus_instruct._ideas import DIFFICULTY_MEANS, NAMES, TEST_FORMS, ideas

if TYPE_CHECKING:
    from kdtool_corpus_instruct._cells import Cell
    from kdtool_corpus_instruct._config import InstructConfig

__all__ = ["draw", "read_seeds"]

_SEEDS = 20_000
"""Maximum number of seeds in memory: the first ones of their corpus."""
_LINES = 15
"""Maximum lines of a piece of code, as in OSS-Instruct."""
_CHARACTERS = 2_000
_EXAMPLES = 2


def read_seeds(examples: Iterable[kdtool.Example]) -> list[str]:
    """Return pieces of a corpus's training examples: the first turn or prompt, or some lines of a plain text.

    Raises:
        UsageError: the corpus has no training examples.
    """
    pieces = (_piece(example) for example in examples if example.split == "train")
    seeds = list(islice((piece for piece in pieces if piece), _SEEDS))
    if not seeds:
        raise kdtool.UsageError(
            "instruct.seeds: the corpus has no training examples; name another one, or style `concept`"
        )
    return seeds


def draw(config: InstructConfig, cell: Cell, key: str, number: int, seeds: Sequence[str]) -> Mapping[str, Any]:
    """Return the variables of a request. They depend only on `key`, the settings and the seeds."""
    # The order of the draws is part of the result: a draw in between would change all requests.
    drawn = random.Random(key)
    style = drawn.choice(config.drawn_styles)
    variables = {
        name: text if isinstance(text, str) else drawn.choice(text) for name, text in sorted(config.variables.items())
    }
    return {
        **variables,
        "language": cell.language,
        "language_name": NAMES[cell.language],
        "fence": cell.language,
        "difficulty": cell.difficulty,
        "difficulty_means": DIFFICULTY_MEANS[cell.difficulty],
        "task": cell.task,
        "tested": config.is_tested(cell),
        "test_form": TEST_FORMS[cell.language],
        "style": style,
        "topic": drawn.choice(ideas("topics")),
        "setting": drawn.choice(ideas("settings")),
        "evolution": drawn.choice(ideas("evolutions")),
        "number": number,
        "seed": _lines(drawn.choice(seeds), drawn) if seeds else "",
        "examples": [drawn.choice(seeds) for _ in range(_EXAMPLES)] if seeds else [],
    }


def _piece(example: kdtool.Example) -> str:
    return kdtool.parts_of(example.body)[0].strip()[: 4 * _CHARACTERS]


def _lines(text: str, drawn: random.Random) -> str:
    """Return some lines of a long text, all of a short one."""
    lines = text.splitlines()
    first = drawn.randrange(max(1, len(lines) - _LINES + 1))
    return "\n".join(lines[first : first + _LINES])[:_CHARACTERS]

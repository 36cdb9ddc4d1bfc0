"""Requests for missing rows of `instruct`: a template with sampled variables, or the next message of a repair.

Subject, setting and seeds make each request different. They are sampled here, because some
services cannot sample at random.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import kdtool
from kdtool_measuring import seed_of

from kdtool_data.instruct.candidates import Candidate, Failure, Slot
from kdtool_data.instruct.settings import REPAIR, InstructConfig
from kdtool_data.lines import split_lines

if TYPE_CHECKING:
    from kdtool_measuring import Templates

    from kdtool_data.instruct.settings import Cell

NAMES = {"python": "Python", "javascript": "JavaScript", "java": "Java", "cpp": "C++", "go": "Go", "rust": "Rust"}
DIFFICULTY_MEANS = {
    "easy": "one idea, some 5 to 15 lines of code.",
    "medium": "two or three ideas together with special cases, some 15 to 40 lines of code.",
    "hard": "an algorithm or a design that takes thought, with limits on time or memory, some 30 to 80 lines of code.",
}
TEST_FORMS = {
    "python": "assert statements at the top level that call the answer's code.",
    "javascript": "console.assert statements at the top level that call the answer's code.",
    "java": "a class Main with a method main that throws an AssertionError; the answer's classes are not public.",
    "cpp": "a function main with assert, and what it includes.",
    "go": "functions of the package testing; the answer begins with its package clause and its imports.",
    "rust": "functions with #[test], which call the answer's code of the same file.",
}
"""Forms of tests that the sandbox can append to the answer's code."""


@cache
def ideas(kind: Literal["topics", "settings"]) -> tuple[str, ...]:
    """Return the subjects or the settings."""
    file = Path(__file__).with_name("templates") / f"{kind}.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


_SEEDS = 20_000
"""Maximum number of seeds in memory: the first ones of their corpus."""
_LINES = 15
"""Maximum lines of a piece of code, as in OSS-Instruct."""
_CHARACTERS = 2_000


def read_seeds(examples: Iterable[kdtool.Example]) -> list[str]:
    """Return pieces of a corpus's training examples: the first turn or prompt, or some lines of a plain text.

    Raises:
        UsageError: the corpus has no training examples.
    """
    texts = (kdtool.parts_of(example.body)[0].strip() for example in examples if example.split == "train")
    seeds = list(islice((text[: 4 * _CHARACTERS] for text in texts if text), _SEEDS))
    if not seeds:
        raise kdtool.UsageError(
            "instruct.seeds: the corpus has no training examples; name another one, or leave seeds out"
        )
    return seeds


def draw(config: InstructConfig, cell: Cell, key: str, number: int, seeds: Sequence[str]) -> Mapping[str, Any]:
    """Return the variables of a request. They depend only on `key`, the settings and the seeds."""
    # The order of the draws is part of the result: a draw in between would change all requests.
    drawn = random.Random(key)
    return {
        "language": cell.language,
        "language_name": NAMES[cell.language],
        "fence": cell.language,
        "difficulty": cell.difficulty,
        "difficulty_means": DIFFICULTY_MEANS[cell.difficulty],
        "task": cell.task,
        "tested": config.is_tested(cell),
        "test_form": TEST_FORMS[cell.language],
        "topic": drawn.choice(ideas("topics")),
        "setting": drawn.choice(ideas("settings")),
        "number": number,
        "seed": _some_lines(drawn.choice(seeds), drawn) if seeds else "",
    }


def _some_lines(text: str, drawn: random.Random) -> str:
    """Return some lines of a long text, all of a short one."""
    lines = split_lines(text)
    first = drawn.randrange(max(1, len(lines) - _LINES + 1))
    return "\n".join(line.rstrip("\r\n") for line in lines[first : first + _LINES])[:_CHARACTERS]


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
    """Return the slot after a rejection: for a repair of the candidate if possible, else for a new candidate."""
    slot = candidate.slot
    if not candidate.error or len(slot.failed) >= repairs:
        return Slot(slot.cell, slot.number, slot.attempt + 1)
    *_, asked = templates.render(REPAIR, {**candidate.values, "error": candidate.error})
    conversation = (*candidate.request.turns, ("assistant", candidate.answer.text), asked)
    failed = (*slot.failed, Failure(candidate.reason, candidate.answer.picodollars, candidate.parts))
    return Slot(slot.cell, slot.number, slot.attempt + 1, failed, conversation)

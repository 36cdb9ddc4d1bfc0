"""HumanEvalPack: HumanEval-X with a bug in each function, asked and put together as OctoPack does.

`HUMANEVAL_FIX` asks for the function of a program that has a bug, with its tests; `HUMANEVAL_SYNTHESIZE` asks for the
function from its documentation. Source: bigcode_eval/tasks/humanevalpack.py in bigcode-evaluation-harness, tasks
`humanevalfixtests-*` and `humanevalsynthesize-*`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import kdtool
from kdtool_programs import Form, Problem

from kdtool_evaluator_multilingual._data_set import DataSet, Record
from kdtool_evaluator_multilingual._humaneval_x import CRATES, LANGUAGES, assemble_whole, complete_program

__all__ = ["HUMANEVAL_FIX", "HUMANEVAL_SYNTHESIZE"]

_STOP = {
    "python": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\nassert"),
    "java": ("\n    }\n",),
    "go": ("\n}", "\n//", "\nfunc main(", "struct", "\nfunc"),
}
_HEADERS = (
    "stdlib.h", "algorithm", "cmath", "math.h", "numeric", "stdio.h", "vector", "set", "map", "queue", "stack", "list",
    "deque", "string", "climits", "cstring", "iostream", "sstream", "fstream",
)  # fmt: skip


def _fix(name: str, record: Record) -> Problem:
    """Return a problem that shows the function with its bug and the tests, and asks for it without the bug."""
    beginning = ("fn main(){}\n" if name == "rust" else "") + record["declaration"]
    buggy = f"{beginning}{record['buggy_solution']}\n{record['test']}"
    return _problem(name, record, beginning, f"{buggy}\nFix bugs in {record['entry_point']}.", is_shown=True)


def _synthesize(name: str, record: Record) -> Problem:
    """Return a problem that asks for a function; only a chat model is given the instruction."""
    return _problem(name, record, record["prompt"], record["instruction"], is_shown=False)


def _problem(name: str, record: Record, beginning: str, asked: str, *, is_shown: bool) -> Problem:
    """Return a problem; a prompt has no line end, as the indentation that follows is one token with it."""
    stop = _STOP.get(name, ("\n}",))
    base = f"{asked}\n\n{beginning}" if is_shown else beginning
    return Problem(
        id=record["task_id"],
        forms={
            "base": Form((), base.strip(), stop),
            "chat": Form((("user", asked.strip()),), beginning.strip(), (*stop, "\n```")),
        },
        continued=partial(complete_program, name, record, CRATES.sub("", beginning).strip(), headers=_HEADERS),
        whole=partial(assemble_whole, name, record, headers=_HEADERS),
        solution="\n" + record["canonical_solution"],
        language=name,
    )


def _data_set(
    name: str, make: Callable[[str, Record], Problem], fields: tuple[str, ...], task: str, base: str
) -> DataSet:
    like = f"bigcode-evaluation-harness, {task}-* with --prompt"
    return DataSet(
        name=name,
        needed=dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", *fields), "text"),
        more={"go": {"test_setup": "text", "import": "text"}},
        languages=LANGUAGES,
        language=lambda record: record["task_id"].partition("/")[0],
        problem=make,
        seconds=10.0,
        harness={
            "base": f"{like} {base} (there a count of braces ends an answer)",
            "chat": f"{like} instruct, in the model's chat template",
        },
        terms=kdtool.LicenceTerms("MIT", url="https://github.com/bigcode-project/octopack"),
        left_out={},
    )


HUMANEVAL_FIX = _data_set(
    "HumanEvalFix", _fix, ("declaration", "buggy_solution", "entry_point"), "humanevalfixtests", "instruct"
)
HUMANEVAL_SYNTHESIZE = _data_set(
    "HumanEvalSynthesize", _synthesize, ("instruction",), "humanevalsynthesize", "continue"
)

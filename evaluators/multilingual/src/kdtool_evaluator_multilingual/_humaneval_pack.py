"""HumanEvalPack: HumanEval-X with a bug in each function, asked and put together as OctoPack does.

`HUMANEVAL_FIX` asks for the function of a program that has a bug, with its tests; `HUMANEVAL_SYNTHESIZE` asks for the
function from its documentation; `HUMANEVAL_EXPLAIN` asks for a description of the solution, and then for the function from
that description. Source: bigcode_eval/tasks/humanevalpack.py in bigcode-evaluation-harness, tasks
`humanevalfixtests-*`, `humanevalsynthesize-*`, `humanevalexplaindescribe-*` and `humanevalexplainsynthesize-*`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import kdtool
from kdtool_programs import Form, Problem

from kdtool_evaluator_multilingual._data_set import DataSet, Record
from kdtool_evaluator_multilingual._explaining import Explained, shorten
from kdtool_evaluator_multilingual._humaneval_x import CRATES, LANGUAGES, assemble_whole, complete_program

__all__ = ["HUMANEVAL_EXPLAIN", "HUMANEVAL_FIX", "HUMANEVAL_SYNTHESIZE"]

_STOP = {
    "python": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\nassert"),
    "java": ("\n    }\n",),
    "go": ("\n}", "\n//", "\nfunc main(", "struct", "\nfunc"),
}
_NAMES = {
    "python": "Python", "cpp": "C++", "javascript": "JavaScript", "java": "Java", "go": "Go", "rust": "Rust"
}  # fmt: skip
_STOP_OF_DESCRIPTIONS = {"python": _STOP["python"], "go": _STOP["go"][1:]}
_HEADERS = (
    "stdlib.h", "algorithm", "cmath", "math.h", "numeric", "stdio.h", "vector", "set", "map", "queue", "stack", "list",
    "deque", "string", "climits", "cstring", "iostream", "sstream", "fstream",
)  # fmt: skip


def _fix(name: str, record: Record) -> Problem:
    """Return a problem that shows the function with its bug and the tests, and asks for it without the bug."""
    beginning = _declaration(name, record)
    buggy = f"{beginning}{record['buggy_solution']}\n{record['test']}"
    return _problem(name, record, beginning, f"{buggy}\nFix bugs in {record['entry_point']}.", is_shown=True)


def _synthesize(name: str, record: Record) -> Problem:
    """Return a problem that asks for a function; only a chat model is given the instruction."""
    return _problem(name, record, record["prompt"], record["instruction"], is_shown=False)


def _explain(name: str, record: Record) -> Problem:
    """Return a problem that asks for a description of the solution, at most as long as the function's documentation."""
    beginning, stop = _declaration(name, record), _STOP_OF_DESCRIPTIONS.get(name, ())
    length = len(record["docstring"])
    asked = (
        f"{beginning}{record['canonical_solution']}\nProvide a concise natural language description of the code using at "
        f"most {length} characters."
    ).strip()

    def written_from(description: str) -> Problem:
        instruction = f"Write functional code in {_NAMES[name]} according to the description."
        return _problem(name, record, beginning, f"{description}\n{instruction}", is_shown=True)

    first = written_from("")
    return Explained(
        id=first.id,
        forms={"base": Form((), asked, stop), "chat": Form((("user", asked),), "", stop)},
        continued=first.continued,
        whole=first.whole,
        solution=first.solution,
        language=name,
        written_from=written_from,
        shorten=partial(shorten, stop=stop, length=length, solution=record["canonical_solution"]),
    )


def _declaration(name: str, record: Record) -> str:
    return ("fn main(){}\n" if name == "rust" else "") + str(record["declaration"])


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
HUMANEVAL_EXPLAIN = _data_set(
    "HumanEvalExplain",
    _explain,
    ("declaration", "docstring"),
    "humanevalexplaindescribe-* and humanevalexplainsynthesize",
    "instruct",
)
HUMANEVAL_SYNTHESIZE = _data_set(
    "HumanEvalSynthesize", _synthesize, ("instruction",), "humanevalsynthesize", "continue"
)

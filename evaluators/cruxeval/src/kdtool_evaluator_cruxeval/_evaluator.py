"""The evaluator `cruxeval`, and CRUXEval's functions as its authors ask for their outputs and inputs.

The prompts are those of the paper's appendix, without a chain of thought. A program judges each answer.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import kdtool
from kdtool_measuring import Kind, read_and_hash, records_of
from kdtool_programs import Form, Module, PassAtK, Problem


class CRUXEval(PassAtK):
    """Python functions of a few lines, each with an input and its output: one is asked for."""

    benchmark: ClassVar[str] = "cruxeval"
    harness: ClassVar[Mapping[str, str]] = {
        "base": "CRUXEval's own, direct prompts",
        "chat": "CRUXEval's own direct prompts, in the model's chat template",
    }

    class Config(PassAtK.Config):
        """Settings of `cruxeval`."""

        file: kdtool.RecipePath
        """cruxeval.jsonl of facebookresearch/cruxeval, compressed with gzip or not, relative to the recipe."""
        tasks: tuple[Literal["output", "input"], ...] = kdtool.Field(default=("output", "input"), min_length=1)
        """`output` asks for a function's output on an input, `input` for an input with an output. Measurements are called
        `cruxeval.output.pass@1` and `cruxeval.input.pass@1`."""
        maximum_tokens: int = kdtool.Field(default=128, ge=1, le=100_000)
        """Maximum tokens per answer. Published scores have a limit of 1,024 for prompt and answer together."""

    config: Config
    licence_terms = kdtool.LicenceTerms("MIT", url="https://github.com/facebookresearch/cruxeval")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._tasks = tuple(dict.fromkeys(config.tasks))
        self.measurements = tuple(name for task in self._tasks for name in self.measurements_of(f"cruxeval.{task}"))

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the file.

        Raises:
            kdtool.UsageError: it cannot be read.
        """
        return {"problems": read_and_hash(self.config.file, "cruxeval.file")[1]}

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        """Return each function once, with its call: without the examples that all prompts share.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in another form.
        """
        return [
            kdtool.Example(each.id, kdtool.Completion(f"{each.code}\n", f"assert {each.call} == {each.output}"), "test")
            for each in functions_of(self.config.file)
        ]

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems of all tasks.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in another form.
        """
        functions = functions_of(self.config.file)
        return [problem_of(each, task) for task in self._tasks for each in functions]

    def parts(self, problems: Sequence[Problem]) -> Mapping[str, Sequence[Problem]]:
        """Return the problems of each task, by `cruxeval.<task>`."""
        return {
            f"cruxeval.{task}": [problem for problem in problems if problem.id.endswith(f"/{task}")]
            for task in self._tasks
        }


_OUTPUT = """\
You are given a Python function and an assertion containing an input to the function. Complete the assertion with a \
literal (no unsimplified expressions, no function calls) containing the output when executing the provided code on the \
given input, even if the function is incorrect or incomplete. Do NOT output any extra information. Provide the full \
assertion with the correct output in [ANSWER] and [/ANSWER] tags, following the examples.

[PYTHON]
def f(n):
    return n
assert f(17) == ??
[/PYTHON]
[ANSWER]
assert f(17) == 17
[/ANSWER]

[PYTHON]
def f(s):
    return s + "a"
assert f("x9j") == ??
[/PYTHON]
[ANSWER]
assert f("x9j") == "x9ja"
[/ANSWER]
"""
_INPUT = """\
You will be given a function f and an output in the form f(??) == output. Find any input such that executing f on the \
input leads to the given output. There may be multiple answers, but you should only output one. In [ANSWER] and \
[/ANSWER] tags, complete the assertion with one such input that will produce the output when executing the function.

[PYTHON]
def f(my_list):
    count = 0
    for i in my_list:
        if len(i) % 2 == 0:
            count += 1
    return count
assert f(??) == 3
[/PYTHON]
[ANSWER]
assert f(["mq", "px", "zy"]) == 3
[/ANSWER]

[PYTHON]
def f(s1, s2):
    return s1 + s2
assert f(??) == "banana"
[/PYTHON]
[ANSWER]
assert f("ba", "nana") == "banana"
[/ANSWER]
"""
_OPENING = "[ANSWER]\n"
_STOP = ("[/ANSWER]",)
_NEEDED: Mapping[str, Kind] = dict.fromkeys(("id", "code", "input", "output"), "text")
_EXPECTED = "cruxeval.jsonl of facebookresearch/cruxeval"


class Function(NamedTuple):
    """A function `f` as source, the arguments of a call, and what that returns."""

    id: str
    code: str
    input: str
    output: str

    @property
    def call(self) -> str:
        """The call as source."""
        return f"f({self.input})"


def functions_of(file: Path) -> Sequence[Function]:
    """Return the functions of a file.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    return [
        Function(record["id"], record["code"], record["input"], record["output"])
        for _, record in records_of(file, "cruxeval.file", _NEEDED, _EXPECTED)
    ]


def problem_of(function: Function, task: Literal["output", "input"]) -> Problem:
    """Return the problem that asks for a function's output or for an input."""
    examples = _OUTPUT if task == "output" else _INPUT
    assertion = f"{function.call} == ??" if task == "output" else f"f(??) == {function.output}"
    asked = f"{examples}\n[PYTHON]\n{function.code}\nassert {assertion}\n[/PYTHON]\n"
    judged = partial(_output_program if task == "output" else _input_program, function)
    return Problem(
        id=f"{function.id}/{task}",
        forms={"base": Form((), asked + _OPENING, _STOP), "chat": Form((("user", asked),), _OPENING, _STOP)},
        continued=judged,
        whole=judged,
        solution=f"assert {function.call} == {function.output}\n",
    )


def _output_program(function: Function, answer: str) -> Module:
    """Return a module with the answer's output, which may be any expression, as in the published harness.

    The module does not contain `f`, so that an answer cannot call it.
    """
    found = _expression(answer)
    if isinstance(found, ast.Compare) and isinstance(found.ops[0], ast.Eq):
        found = found.comparators[0]
    return _module(function, "", found)


def _input_program(function: Function, answer: str) -> Module:
    """Return a module with `f` and the answer's call of it. Another expression is not an input."""
    found = _expression(answer)
    if isinstance(found, ast.Compare):
        found = found.left
    is_call = isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and found.func.id == "f"
    return _module(function, function.code, found if is_call else None)


def _module(function: Function, before: str, found: ast.expr | None) -> Module:
    """Return a module whose `answer` returns an expression; without one, it lacks `answer` and fails."""
    source = f"{before}\n\ndef answer():\n    return {ast.unparse(found)}\n" if found is not None else ""
    return Module(source, f"assert {function.output} == answer()\n", ("answer",))


def _expression(answer: str) -> ast.expr | None:
    """Return the asserted or bare expression of an answer; None if neither the text nor its first line parses."""
    tagged = re.search(r"\[ANSWER\](.*?)(?:\[/ANSWER\]|\Z)", answer, re.DOTALL)
    text = (tagged[1] if tagged else answer).strip()
    for part in (text, text.partition("\n")[0]):
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            for statement in ast.parse(part).body[:1]:
                if isinstance(statement, ast.Assert):
                    return statement.test
                if isinstance(statement, ast.Expr):
                    return statement.value
    return None

"""MultiPL-E: HumanEval's and MBPP's problems in many languages, asked and put together as its own harness does.

A program is the prompt, the answer, a line's end and the tests, which for most languages begin with the brace that ends the
function: the stop string took it. Here that brace belongs to the answer, so that the tests are complete. Source:
evaluation/src in nuprl/MultiPL-E, and tasks/multiple.py in bigcode-evaluation-harness.
"""

from __future__ import annotations

import re
from functools import partial

import kdtool
from kdtool_programs import Module, Problem, Program, language

from kdtool_evaluator_multilingual._data_set import (
    DataSet,
    Record,
    end_macros,
    forms,
    go_program,
    imports_of,
    without_main,
)

_GO_SETUP = re.compile(r"\A.*?^import \(.*?^\)\n", re.MULTILINE | re.DOTALL)
_TUPLES = re.compile(r"^import org\.javatuples\..*$", re.MULTILINE)
_PAIR = """
class Pair<A, B> {
    private final A first;
    private final B second;

    Pair(A first, B second) { this.first = first; this.second = second; }
    static <A, B> Pair<A, B> with(A first, B second) { return new Pair<A, B>(first, second); }
    public A getValue0() { return first; }
    public B getValue1() { return second; }
    public boolean equals(Object other) {
        return other instanceof Pair && ((Pair<?, ?>) other).toList().equals(toList());
    }
    public int hashCode() { return toList().hashCode(); }
    public String toString() { return toList().toString(); }
    public java.util.List<Object> toList() { return java.util.Arrays.asList(first, second); }
}
"""
"""Replaces javatuples, which all problems in Java import; eight of them use its `Pair`."""


def _problem(name: str, record: Record) -> Problem:
    prompt = record["prompt"].strip()
    return Problem(
        id=f"{name}/{record['name']}",
        forms=forms(name, prompt, tuple(record["stop_tokens"])),
        continued=partial(_complete_program, name, record, prompt),
        whole=partial(_whole, name, record),
        solution="",
        language=name,
    )


def _complete_program(name: str, record: Record, prompt: str, code: str) -> Module | Program:
    tests = record["tests"].lstrip()
    closing = "\n}" if tests.startswith("}") else ""
    return _work(name, prompt + code + closing, tests.removeprefix("}"))


def _whole(name: str, record: Record, code: str) -> Module | Program:
    """Return an answer that has its function closed, so that the tests must not close it again."""
    tests = record["tests"].lstrip().removeprefix("}")
    if name == "go":
        setup = _GO_SETUP.match(record["prompt"])
        return _work(name, go_program(setup.group() if setup else "", "", without_main(code)), tests)
    if name == "java":  # the tests are methods of the answer's class
        code = imports_of(record["prompt"]) + without_main(code)
        return _work(name, code[: code.rfind("}")], tests)
    if name == "cpp":
        code = imports_of(record["prompt"]) + code
    return _work(name, without_main(code) if name in ("cpp", "rust") else code, tests)


def _work(name: str, source: str, tests: str) -> Module | Program:
    if name == "java":
        source, tests = _TUPLES.sub("", source), tests + _PAIR
    elif name == "cpp":
        source = end_macros(source)
    return language(name).run(source, tests)


MULTIPL_E = DataSet(
    name="MultiPL-E",
    needed={"name": "text", "language": "text", "prompt": "text", "tests": "text", "stop_tokens": "texts"},
    more={},
    languages={"cpp": "cpp", "go_test.go": "go", "java": "java", "js": "javascript", "rs": "rust", "ts": "typescript"},
    language=lambda record: record["language"],
    problem=_problem,
    seconds=15.0,
    harness={
        "base": "bigcode-evaluation-harness, tasks multiple-* (there at temperature 0.2)",
        "chat": "none: asked as lm-evaluation-harness' humaneval_instruct asks for Python, run as MultiPL-E does",
    },
    terms=kdtool.LicenceTerms(
        "BSD-3-Clause with Machine Learning Restriction",
        url="https://github.com/nuprl/MultiPL-E/blob/main/LICENSE",
        restrictions=("the problems may not be used as training data for any machine learning model",),
    ),
    left_out={},
)

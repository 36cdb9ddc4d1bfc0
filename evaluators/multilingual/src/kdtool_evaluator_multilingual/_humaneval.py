"""HumanEval-X, asked and put together as CodeGeeX does, and HumanEvalPack, as OctoPack does.

HumanEval-X has HumanEval's problems in six languages. If one needs a package from a network (testify, Boost, crates), a few
lines replace the parts that the tests use, or the problem is left out. Source: THUDM/CodeGeeX, codegeex/benchmark,
`process_humaneval_test` in evaluate_humaneval_x.py, `IMPORT_HELPER` and `is_code_generation_finished` in utils.py,
`check_correctness` in execution.py.

HumanEvalPack is HumanEval-X with a bug in each function. `HUMANEVAL_FIX` asks for the function of a program that has a bug,
with its tests; `HUMANEVAL_SYNTHESIZE` asks for the function from its documentation. Source:
bigcode_eval/tasks/humanevalpack.py in bigcode-evaluation-harness, tasks `humanevalfixtests-*` and `humanevalsynthesize-*`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import kdtool
from kdtool_programs import Form, Module, Problem, Program, after, language

from kdtool_evaluator_multilingual._data_set import (
    DataSet,
    Record,
    close_function,
    end_macros,
    forms,
    go_program,
    imports_of,
    without_main,
)

_CLOSING = {"java": ("    }", "}")}
_CODEGEEX_STOP = {"python": ("\ndef", "\nclass", "\nif", "\n#", "\nprint"), "java": ("\n    }\n",)}
_CLOSED = ("}",)
_PYTHON = """\
import math, re, sys, copy, datetime, itertools, collections, heapq, statistics, functools, hashlib, string
from typing import *
from collections import *
"""
"""CodeGeeX imports numpy too, which the sandbox's Python has not, and which no test uses."""
_CPP = ("stdlib.h", "algorithm", "math.h", "stdio.h", "vector", "string", "climits", "cstring", "iostream")
_BOOST = (
    "#include<boost/any.hpp>",
    "#include<any>\nnamespace boost { using std::any; using std::any_cast; using std::bad_any_cast; }",
)
"""The parts of Boost that CPP/22 and CPP/137 use have been in C++ itself since 2017."""
_TESTIFY = "github.com/stretchr/testify/assert"
_GO_ASSERT = """
type testifyPackage struct{}
type testifyAssertions struct{ t *testing.T }

var assert testifyPackage

func (testifyPackage) New(t *testing.T) testifyAssertions { return testifyAssertions{t} }

func (a testifyAssertions) Equal(expected, actual interface{}, why ...interface{}) {
    if !reflect.DeepEqual(expected, actual) {
        a.t.Errorf("expected %v, got %v %v", expected, actual, why)
    }
}
"""
"""Replaces testify; the tests use only its `assert.New(t).Equal`: values are equal by reflect.DeepEqual."""
CRATES = re.compile(r"^use (?:rand|regex|md5)\b.*\n", re.MULTILINE)
"""Each problem in Rust imports these, and nearly none uses them; programs are compiled without crates."""
LANGUAGES = {"CPP": "cpp", "Go": "go", "Java": "java", "JavaScript": "javascript", "Python": "python", "Rust": "rust"}
"""The sandbox's names of the languages, by the first part of a problem's id."""


def _codegeex_problem(name: str, record: Record) -> Problem:
    prompt = record["prompt"]
    if name == "rust":  # the signature is in the declaration, and the prompt a comment inside of the function
        prompt = CRATES.sub("", record["declaration"]).lstrip() + prompt
    return Problem(
        id=record["task_id"],
        forms=forms(name, prompt, _CODEGEEX_STOP.get(name, ("\n}",))),
        continued=partial(complete_program, name, record, prompt),
        whole=partial(assemble_whole, name, record),
        solution=record["canonical_solution"],
        language=name,
    )


def complete_program(
    name: str, record: Record, before: str, code: str, headers: Sequence[str] = _CPP
) -> Module | Program:
    """Return the tested program of code that continues the open function at the end of `before`.

    Args:
        name: the language, as the sandbox calls it.
        record: has `prompt`, `test`, and in Go `test_setup` and `import`.
        before: the beginning of the program.
        code: as it was generated.
        headers: C++ headers that every program includes.
    """
    if name == "python":
        outside = re.search(r"^\S", code, re.MULTILINE)  # the first line that is not the function's
        return _work(name, record, before, code[: outside.start()] if outside else code, headers)
    return _work(name, record, before, close_function(code, _CLOSING.get(name, _CLOSED)), headers)


def assemble_whole(name: str, record: Record, code: str, headers: Sequence[str] = _CPP) -> Module | Program:
    """Return the tested program of code that is complete by itself; arguments as in `complete_program`."""
    if name == "python":
        return _work(name, record, record["prompt"].rpartition("def ")[0], code, headers)  # its imports and helpers
    if name == "java":  # a file has one public class, which is that of the tests
        code = re.sub(r"\bpublic\s+(?=(?:final\s+)?class\b)", "", re.sub(r"\bMain\b", "MainOfTheAnswer", code))
    before = imports_of(record["prompt"]) if name in ("cpp", "java") else ""
    return _work(name, record, before, code if name == "javascript" else without_main(code), headers)


def _work(name: str, record: Record, before: str, code: str, headers: Sequence[str]) -> Module | Program:
    tests = record["test"]
    if name == "python":
        called = re.findall(r"^check\((\w+)\)", tests, re.MULTILINE)
        return language(name).run(after(_PYTHON + before, code), tests, tuple(called), _PYTHON + record["prompt"])
    if name == "go":
        setup = record["test_setup"].replace(_TESTIFY, "reflect")
        source, tests = go_program(setup, before.replace(record["import"], ""), code), tests + _GO_ASSERT
    else:
        source = before + code
    if name == "cpp":
        includes = [f"#include<{header}>\n" for header in headers if f"#include<{header}>" not in before]
        source = "".join(includes) + end_macros(source.replace(*_BOOST))
    return language(name).run(source, tests)


HUMANEVAL_X = DataSet(
    name="HumanEval-X",
    needed=dict.fromkeys(("task_id", "prompt", "declaration", "canonical_solution", "test"), "text"),
    more={"go": {"test_setup": "text", "import": "text"}},
    languages=LANGUAGES,
    language=lambda record: record["task_id"].partition("/")[0],
    problem=_codegeex_problem,
    seconds=5.0,
    harness={
        "base": "CodeGeeX, evaluate_humaneval_x.py (there a count of braces ends an answer, JavaScript that prints fails)",
        "chat": "none: asked as lm-evaluation-harness' humaneval_instruct asks for Python, run as CodeGeeX does",
    },
    terms=kdtool.LicenceTerms("Apache-2.0", url="https://github.com/THUDM/CodeGeeX"),
    left_out={
        "CPP/162": "needs OpenSSL",
        "Rust/32": "its tests are commented out",
        **dict.fromkeys(("Rust/38", "Rust/50", "Rust/53"), "its tests need the crate rand"),
    },
)
_OCTOPACK_STOP = {
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
    beginning = ("fn main(){}\n" if name == "rust" else "") + str(record["declaration"])
    buggy = f"{beginning}{record['buggy_solution']}\n{record['test']}"
    return _octopack_problem(name, record, beginning, f"{buggy}\nFix bugs in {record['entry_point']}.", is_shown=True)


def _synthesize(name: str, record: Record) -> Problem:
    """Return a problem that asks for a function; only a chat model is given the instruction."""
    return _octopack_problem(name, record, record["prompt"], record["instruction"], is_shown=False)


def _octopack_problem(name: str, record: Record, beginning: str, asked: str, *, is_shown: bool) -> Problem:
    """Return a problem; a prompt has no line end, as the indentation that follows is one token with it."""
    stop = _OCTOPACK_STOP.get(name, ("\n}",))
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

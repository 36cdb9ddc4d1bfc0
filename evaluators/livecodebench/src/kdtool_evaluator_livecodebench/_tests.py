"""Tests of a problem, and the programs that judge an answer by them.

The published file contains the private tests as a pickle; it is parsed here, and never unpickled. An answer runs in one
process, and its results are compared in another. Comparisons are those of lcb_runner/evaluation/testing_util.py in
LiveCodeBench/LiveCodeBench.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import kdtool
from kdtool_programs import Module, after

LARGEST = 48 * 2**20
"""Characters of all tests of a problem together that fit into the sandbox."""
_LARGEST_UNPACKED = 2**30
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}
"""Instructions of a pickle around its one text; none of them calls or imports anything."""
_EXPECTED = "JSON, or base64 of a compressed pickle of one text, as LiveCodeBench publishes it"


class Case(NamedTuple):
    """One test: text to read and to print, or arguments and result as JSON."""

    input: str
    output: str
    testtype: Literal["stdin", "functional"]


def cases_of(text: str, location: str) -> Sequence[Case]:
    """Return the tests in a field of a record.

    Args:
        text: JSON, or the packed form of private tests.
        location: setting, file, line and field, for messages.

    Raises:
        kdtool.UsageError: the text is in another form, or would unpickle anything but one text.
    """
    tests = _json(text)
    if tests is None:
        tests = _json(_unpack(text, location))
    if not isinstance(tests, list) or not all(map(_is_case, tests)):
        raise kdtool.UsageError(
            f"{location}: not a list of tests with input, output and testtype; expected {_EXPECTED}; download the file again"
        )
    return [Case(each["input"], each["output"], each["testtype"]) for each in tests]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_case(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in ("input", "output"))
        and value.get("testtype") in ("stdin", "functional")
    )


def _unpack(text: str, location: str) -> str:
    """Return the text in base64 of a compressed pickle."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), _LARGEST_UNPACKED)
        if unpacker.unconsumed_tail:
            raise ValueError(f"more than {_LARGEST_UNPACKED:,} bytes")
        return _text_in_pickle(data)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise kdtool.UsageError(
            f"{location}: {error}; expected {_EXPECTED}; download the file again, or give one with tests as JSON"
        ) from error


def _text_in_pickle(data: bytes) -> str:
    """Return the one text of a pickle.

    Raises:
        ValueError: the pickle has other contents.
    """
    texts = []
    for instruction, argument, _ in pickletools.genops(data):
        if instruction.name in _TEXTS:
            texts.append(argument)
        elif instruction.name not in _AROUND:
            raise ValueError(f"its pickle contains {instruction.name}, which is refused since it may run code")
    if len(texts) != 1:
        raise ValueError(f"its pickle contains {len(texts)} texts")
    return str(texts[0])


_NAME = "answer_to"
_STARS = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
_PRELUDE = "".join(
    [
        *(f"from {name} import *\n" for name in _STARS),
        *(f"import {name}\n" for name in _STARS if name not in ("builtins", "typing")),
        "sys.setrecursionlimit(50000)\n",
    ]
)
"""Names that an answer may use without importing them, as in LiveCodeBench."""
_METHOD = """

def {name}(arguments):
    return getattr(Solution(), {method!r})(*arguments) if "Solution" in globals() else {method}(*arguments)
"""
_METHOD_TESTS = """\
import json

for given, expected in {cases!r}:
    found = {name}([json.loads(line) for line in given.split("\\n")])
    assert (list(found) if isinstance(found, tuple) else found) == json.loads(expected), "wrong answer"
"""
_TEXT = """\
import atexit, builtins, contextlib, gc, io, os, re, sys, tempfile, threading, types

_named = {{"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}}
_named |= {{f"/{{place}}/fd/{{n}}": n for n in range(3) for place in ("dev", "proc/self")}}
_open, _low = io.open, os.open
os.open = lambda file, *rest, **more: os.dup(_named[str(file)]) if str(file) in _named else _low(file, *rest, **more)
io.open = builtins.open = lambda file, *rest, **more: _open(os.open(file, 0) if str(file) in _named else file, *rest, **more)
builtins.exit = builtins.quit = sys.exit
_prelude, _program = (compile(text, "<answer>", "exec", dont_inherit=True) for text in ({prelude!r}, {code!r}))
exec(_prelude, {{}})
for line in re.findall(r"^(?:import|from)[ \\t][^;\\n]*$", {code!r}, re.MULTILINE):  # once, and not in each process
    with contextlib.suppress(BaseException):
        exec(line, {{}})
gc.freeze()


def {name}(text):
    with tempfile.TemporaryFile(dir=".") as given, tempfile.TemporaryFile(dir=".") as printed:
        given.write(text.encode())
        given.seek(0)
        process = os.fork() or _become_program(given.fileno(), printed.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        printed.seek(0)
        found = printed.read().decode("utf-8", "replace")
    if status:
        raise RuntimeError(found[-2000:] if status == 1 else f"the program ended with {{status}}")
    return found


def _become_program(given, printed):
    try:
        os.dup2(given, 0)
        os.dup2(printed, 1)
        os.closerange(3, printed)
        sys.stdin = sys.__stdin__ = _open(0, encoding="utf-8", closefd=False)
        sys.stdout = sys.__stdout__ = _open(1, "w", encoding="utf-8", closefd=False)
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(_prelude, vars(main))
        with contextlib.suppress(SystemExit):
            exec(_program, vars(main))
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.closed or sys.stdout.flush()
        sys.stdout = sys.__stdout__
        del main, sys.modules["__main__"]
        gc.collect()
        sys.stdout.closed or sys.stdout.flush()
        os._exit(0)
    except BaseException as error:
        os.ftruncate(printed, 0)
        os.pwrite(printed, f"{{type(error).__name__}}: {{error}}".encode("utf-8", "replace"), 0)
    finally:
        os._exit(1)
"""
"""Each test has a new process, with files as standard input and output. It ends as Python does: with its threads,
`atexit`, and what is not written yet. The sandbox has no /dev/stdin, so names of streams open their descriptors."""
_TEXT_TESTS = """\
from decimal import Decimal


def lines(text):
    return [line.strip() for line in text.strip().split("\\n")]


def numbers(line):
    try:
        return [Decimal(part) for part in line.split()]
    except ArithmeticError:
        return None


def same(found, expected):
    return found == expected or (numbers(found) is not None and numbers(found) == numbers(expected))


for given, expected in {cases!r}:
    found, right = lines({name}(given)), lines(expected)
    assert len(found) == len(right), "wrong number of lines"
    assert all(map(same, found, right)), "wrong answer"
"""


def method_program(code: str, method: str, cases: Sequence[Case]) -> Module:
    """Return a program that calls a method of the answer's `Solution`, or a function, with the arguments of each test."""
    source = f"{after(_PRELUDE, code)}\n{_METHOD.format(name=_NAME, method=method)}"
    return Module(source, _METHOD_TESTS.format(name=_NAME, cases=[case[:2] for case in cases]), (_NAME,))


def text_program(code: str, cases: Sequence[Case]) -> Module:
    """Return a program that runs the answer with the input of each test, and compares what it prints."""
    source = _TEXT.format(name=_NAME, prelude=_PRELUDE, code=code)
    return Module(source, _TEXT_TESTS.format(name=_NAME, cases=[case[:2] for case in cases]), (_NAME,), forks=True)

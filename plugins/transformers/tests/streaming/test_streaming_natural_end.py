"""The natural end of a text: repetition and the end of a function are found, and code of people is never cut."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_transformers.streaming import end_naturally

LONGEST = 2000
"""Characters of a generated text in these tests."""


@cache
def modules() -> list[Path]:
    """Modules of the standard library without its tests, which repeat lines by the dozen."""
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    return sorted(path for path in library.rglob("*.py") if not left_out & {*path.relative_to(library).parts})


@cache
def parsed(path: Path) -> tuple[str, list[ast.stmt]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, ast.parse(text).body
    except (SyntaxError, ValueError):
        return "", []


def ended(prompt: str, text: str, size: int = 4, **request: Any) -> tuple[str, str, str]:
    """Return what is left of a text that is generated in pieces of `size` characters, its finish and the reason."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)] or [""]

    def generated() -> Iterator[kdtool.TextPiece]:
        for number, piece in enumerate(pieces, 1):
            yield kdtool.TextPiece(piece, 1, number, "length" if number == len(pieces) else None)

    found = list(end_naturally(generated(), kdtool.Request("1", prompt, 999, **request)))
    assert [one.finish for one in found[:-1]] == [None] * (len(found) - 1)
    return "".join(one.text for one in found), found[-1].finish or "", found[-1].reason


@given(st.data(), st.integers(1, 9))
def test_no_code_of_the_standard_library_is_taken_for_repetition(data: st.DataObject, size: int) -> None:
    text, _ = parsed(data.draw(st.sampled_from(modules())))
    start = data.draw(st.integers(0, len(text)))
    rest = text[start : start + LONGEST]
    assert ended("", rest, size) == (rest, "length", "")


@given(st.data(), st.integers(1, 9))
def test_a_function_of_the_standard_library_ends_where_python_says(data: st.DataObject, size: int) -> None:
    text, body = parsed(data.draw(st.sampled_from(modules())))
    defined = [
        (node, after)
        for node, after in pairwise(body)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.end_lineno != node.lineno
    ]
    if not defined:
        return
    node, after = data.draw(st.sampled_from(defined))
    lines = text.splitlines(keepends=True)
    cut = data.draw(st.integers(node.lineno, (node.end_lineno or 0) - 1))
    prompt, rest = "".join(lines[:cut]).removesuffix("\n"), "".join(lines[cut:])
    rest = "\n" + rest
    own = "\n" + "".join(lines[cut : node.end_lineno]).rstrip()
    begins = min([after.lineno, *(each.lineno for each in getattr(after, "decorator_list", []))])
    found, finish, reason = ended(prompt, rest[: len(own) + LONGEST], size)
    assert found.startswith(own)
    comments = found[len(own) :].split("\n")
    assert all(not line.strip() or "#" in line for line in comments), "comments behind the last statement may stay"
    if sum(map(len, lines[(node.end_lineno or 0) : begins - 1])) < LONGEST:
        assert (finish, reason) == ("stop", "the definition ended")


LINE = "    numbers.append(numbers[-1] + step)"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("\n    first = 1" + f"\n{LINE}" * 30, "\n    first = 1" + f"\n{LINE}" * 2),
        ("\n    return sum_numbers" + "_to_list" * 40, "\n    return sum_numbers" + "_to_list" * 3),
        ("\ndef a(x):\n    return x\n\n\ndef b(y):\n    return y\n\n" * 8, None),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_text_that_repeats_itself_ends_with_its_second_copy(text: str, kept: str | None, size: int) -> None:
    found, finish, reason = ended("x = 1", text, size)
    assert (finish, reason) == ("stop", "the text repeated itself")
    assert text.startswith(found)
    assert found == kept if kept else len(found) < len(text) / 3


@pytest.mark.parametrize(
    "text", ["= [" + "0, " * 300, "= (" + '"\\ufffe",\n    ' * 99, "-" * 79 + "\nx", " " * 500 + "x"]
)
def test_tables_of_literals_and_rules_may_repeat(text: str) -> None:
    assert ended("table ", text) == (text, "length", "")


BODY = "\n    total = 0\n    # of all\n    return total"
NEXT = "\n\n# the next\n@cache\ndef other():\n    pass\n"


@pytest.mark.parametrize(
    ("prompt", "text", "kept"),
    [
        ("def mean(numbers):", BODY + NEXT, BODY),
        ("import x\n\n\n@cache\nasync def mean(", f"a,\n    b,\n) -> int:{BODY}\n\nprint(mean([1]))", None),
        ("class Stack(list):\n", f'    """\nA stack\n    """{BODY}{NEXT}', f'    """\nA stack\n    """{BODY}'),
        ("@cache\n", f"def mean():{BODY}{NEXT}", f"def mean():{BODY}"),
        ("def mean(): ", "return 1\nprint(2)", "return 1"),
    ],
)
def test_a_definition_that_the_prompt_begins_ends_the_text(prompt: str, text: str, kept: str | None) -> None:
    kept = kept or text.removesuffix("\n\nprint(mean([1]))")
    assert ended(prompt, text) == (kept, "stop", "the definition ended")


@pytest.mark.parametrize(
    ("prompt", "request_"),
    [
        ("x = 1", {}), ("class of 1998:", {}), ("    def method(self):", {}), ("def f():\n    return 1\n\n\n", {}),
        ("def f():\n    return 1\n\n\nx = [", {}), ("def f():\n    x = '", {}), ("function def(a) {", {}),
        ("def f():", {"suffix": "\n"}), ("def f():", {"turns": (("user", "hi"),)}),
    ],
)  # fmt: skip
def test_other_prompts_end_at_no_definition(prompt: str, request_: dict[str, Any]) -> None:
    text = "1\ny = 2\n\n\ndef g():\n    return 3\n\n\nz = 4\n"
    assert ended(prompt, text, **request_) == (text, "length", "")

"""Pairs of prompt and completion in a source file: documentation with its implementation, and explained snippets.

The corpus calls this for each file if its settings ask for forms other than whole files. All text is from the file as
its authors wrote it; only the prompts of `repair` have a token swapped, as mutation testing does to find weak tests. A
file that this interpreter cannot parse has no pairs.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

PairForm = Literal["implement", "document", "explain", "repair"]
Form = Literal["file"] | PairForm
_WORDS = 5
"""Minimum words of documentation or of an explanation: shorter ones explain nothing."""
_SNIPPET_LINES = 20
_NO_EXPLANATION = re.compile(
    r"\b(todo|fixme|xxx|hack|noqa|pragma|pylint|mypy|type:|copyright|licen[cs]e|coding[:=])|[-=*#~_]{4,}", re.IGNORECASE
)
_FEED = re.compile(r"^(?:[ \t]*\f)+", re.MULTILINE)
"""Form feeds at the start of a line: the parser counts them in columns, but not as indentation."""


@dataclass(frozen=True)
class Pair:
    """Prompt and completion, the line at which they begin, and the function's name, "" for a snippet."""

    form: PairForm
    line: int
    name: str
    prompt: str
    completion: str


def pairs_of(text: str, forms: Sequence[PairForm]) -> Iterator[Pair]:
    """Yield the pairs of the wanted forms in a file, form by form, in the order of the file."""
    text = _FEED.sub("", text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the file's strings are not kdtool's to report
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = text.split("\n")  # the parser counts lines like this; splitlines also breaks at other characters
    for form in forms:
        if form == "explain":
            yield from _explain(tree, lines)
        else:
            for function, name in _functions(tree.body, ""):
                pair = _document(function, name, lines, form)
                if pair is not None:
                    yield pair


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[_Function, str]]:
    """Yield functions and methods with their qualified names, except functions defined inside others."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, f"{prefix}{node.name}"
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")


def _document(function: _Function, name: str, lines: Sequence[str], form: PairForm) -> Pair | None:
    """Return the pair of a documented function with a body: from documentation to code, the reverse, or a repair."""
    docstring = ast.get_docstring(function, clean=False)
    if docstring is None or len(docstring.split()) < _WORDS or not _does_something(function.body[1:]):
        return None
    documented, first = function.body[0], function.body[1]
    signature_end, documentation_end = documented.lineno - 1, documented.end_lineno or documented.lineno
    if first.lineno <= documentation_end or lines[signature_end][: documented.col_offset].strip():
        return None  # on one line with something else
    begin = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    end = function.end_lineno or function.lineno
    head, documentation, rest = (
        _dedent(lines[start:stop], function.col_offset)
        for start, stop in ((begin - 1, signature_end), (signature_end, documentation_end), (documentation_end, end))
    )
    if form == "implement":
        return Pair(form, begin, name, head + documentation, rest)
    if form == "repair":
        whole = head + documentation + rest
        broken = break_function(whole)
        return None if broken is None else Pair(form, begin, name, f"{broken}\n# The same without its bug:\n", whole)
    prompt = f"{head}{rest}\n# What {function.name} does:\n"
    return Pair(form, begin, name, prompt, f"{inspect.cleandoc(docstring).strip()}\n")


def _does_something(body: Sequence[ast.stmt]) -> bool:
    """Return whether a body is more than `pass`, `...`, or a NotImplementedError."""
    if not body:
        return False
    only = body[0]
    if len(body) > 1:
        return True
    if isinstance(only, ast.Raise):
        return "NotImplemented" not in ast.dump(only)
    return not isinstance(only, ast.Pass) and not (isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant))


def _explain(tree: ast.Module, lines: Sequence[str]) -> Iterator[Pair]:
    """Yield statements that follow each other without a gap, with the comment directly above them."""
    comments = _lines_of_comments(tree, lines)
    pairs = [pair for body in _bodies(tree) for pair in _explained_in(body, lines, comments)]
    yield from sorted(pairs, key=lambda pair: pair.line)


def _explained_in(body: Sequence[ast.stmt], lines: Sequence[str], comments: set[int]) -> Iterator[Pair]:
    for number, statement in enumerate(body):
        begin = statement.lineno
        if begin - 1 not in comments or lines[begin - 1][statement.col_offset :].startswith("elif"):
            continue
        first = begin - 1
        while first - 1 in comments:
            first -= 1
        above = lines[first - 1 : begin - 1]
        if any(len(line) - len(line.lstrip()) != statement.col_offset for line in above):
            continue
        explanation = " ".join(line.strip().lstrip("#").strip() for line in above).strip()
        end = _end_of_group(body[number:])
        if end - begin < _SNIPPET_LINES and _explains(explanation):
            snippet = _dedent(lines[begin - 1 : end], statement.col_offset)
            yield Pair("explain", first, "", f"{snippet}\n# In words:\n", f"{explanation}\n")


def _end_of_group(statements: Sequence[ast.stmt]) -> int:
    """Return the last line of the statements that follow each other without a line in between."""
    end = statements[0].end_lineno or statements[0].lineno
    for statement in statements[1:]:
        if statement.lineno > end + 1:
            break
        end = statement.end_lineno or statement.lineno
    return end


def _explains(text: str) -> bool:
    """Return whether a comment is prose: no code that was commented out, no heading, no mark for tools."""
    letters = sum(character.isalpha() or character == " " for character in text)
    if len(text.split()) < _WORDS or letters < 0.75 * len(text) or _NO_EXPLANATION.search(text):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return False


def _bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                yield body


def _lines_of_comments(tree: ast.Module, lines: Sequence[str]) -> set[int]:
    """Return the numbers of lines that contain only a comment, except those within an expression."""
    within = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr)
        for line in range(node.lineno + 1, (node.end_lineno or node.lineno) + 1)
    }
    return {number for number, line in enumerate(lines, 1) if line.lstrip().startswith("#")} - within


def _dedent(lines: Sequence[str], columns: int) -> str:
    """Return lines without the indentation of the block they are from, each ended; blank lines are empty."""
    return "".join(f"{line[columns:] if not line[:columns].strip() else line}\n" for line in lines)


_SWAPPED = {
    "==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "+": "-", "-": "+", "+=": "-=", "-=": "+=",
    "and": "or", "or": "and", "True": "False", "False": "True", "min": "max", "max": "min", "any": "all", "all": "any",
    "break": "continue", "continue": "break", "append": "extend", "0": "1", "1": "0", "is": "is not", "in": "not in",
}  # fmt: skip
"""Tokens with those that replace them: another meaning, of the same form."""


def break_function(function: str) -> str | None:
    """Return the source of a function with one token swapped, always the same one; None if it has none to swap."""
    lines = function.split("\n")
    places = [
        token
        for token in tokenize.generate_tokens(io.StringIO(function).readline)
        if token.type in {tokenize.OP, tokenize.NAME, tokenize.NUMBER} and token.string in _SWAPPED
    ]
    first = crc32(function.encode("utf-8"))
    for number in range(len(places)):
        token = places[(first + number) % len(places)]
        row, (begin, end) = token.start[0] - 1, (token.start[1], token.end[1])
        changed = lines[row][:begin] + _SWAPPED[token.string] + lines[row][end:]
        broken = "\n".join([*lines[:row], changed, *lines[row + 1 :]])
        if _is_python(broken):
            return broken
    return None


def _is_python(text: str) -> bool:
    """Return whether a function compiles: `for x not in y` does not even parse, `break` outside a loop does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "function", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True

"""Turn the code of a chat model's reply into text that continues the prompt, as a base model would write it."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Sequence
from itertools import dropwhile
from textwrap import indent

from kdtool_programs._code import bound_names, parse_python

__all__ = ["completed_names", "continuation_of"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_INDENTATION = 4
_TABS = re.compile(r"^\t+", re.MULTILINE)


def completed_names(prompt: str) -> tuple[str, ...]:
    """Return the name of the Python function whose body the prompt asks for, as the argument `names` of `code_of`.

    Empty if the prompt does not end with a signature, or a signature and its documentation.
    """
    function = _open_function(prompt)
    return () if function is None else (function.name,)


def continuation_of(prompt: str, code: str, language: str = "python") -> str:
    """Return the part of `code` that continues `prompt`, so that both together are one program; "" if there is none.

    Text that repeats the prompt is left out. If a Python prompt ends with a signature, the continuation is the function's
    body; imports and helper functions that it uses move into the body, and anything after the function is left out. Python
    that does not parse after the prompt, does nothing, or has other parameters yields "". Other languages are not parsed.

    Args:
        prompt: the beginning of a program.
        code: a whole program, or what continues the prompt.
        language: of both, in lower case.
    """
    if language != "python":
        return _join(prompt, _rest(prompt, code))
    code = _TABS.sub(lambda tabs: " " * _INDENTATION * len(tabs.group()), code)
    function = _open_function(prompt)
    bodies = _candidates(prompt, code) if function is None else _bodies(prompt, function, code)
    for body in bodies:
        text = _join(prompt, body)
        whole = parse_python(prompt + text)
        if whole is not None and text.strip() and (function is None or _works(_last_function(whole))):
            return text
    return ""


def _open_function(prompt: str) -> _Function | None:
    """Return the function at the end of a prompt if its body is only its documentation."""
    parsed = parse_python(prompt)
    if parsed is None:
        last = prompt.rstrip().rpartition("\n")[2]
        column = len(last) - len(last.lstrip()) + _INDENTATION
        parsed = parse_python(f"{prompt.rstrip()}\n{' ' * column}pass\n")
    function = None if parsed is None else _last_function(parsed)
    return None if function is None or _works(function) else function


def _last_function(parsed: ast.AST) -> _Function | None:
    """Return the function or method that ends a module."""
    last = parsed.body[-1] if isinstance(parsed, ast.Module | ast.ClassDef) and parsed.body else None
    return _last_function(last) if isinstance(last, ast.ClassDef) else last if isinstance(last, _Function) else None


def _works(function: _Function | None) -> bool:
    """Return whether a function's body is more than documentation, imports, `pass`, words, or a NotImplementedError."""
    return function is not None and any(_does_something(statement) for statement in function.body)


def _does_something(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call | ast.Yield | ast.YieldFrom | ast.Await)
    if isinstance(statement, ast.Raise):
        return "NotImplemented" not in ast.dump(statement)
    return not isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom)


def _bodies(prompt: str, function: _Function, code: str) -> Iterator[str]:
    """Yield possible bodies of the prompt's function: that of its definition in the code, or all of the code."""
    column = function.body[0].col_offset
    parsed = parse_python(code)
    functions = [] if parsed is None else [node for node in ast.walk(parsed) if isinstance(node, _Function)]
    named = [node for node in functions if node.name == function.name]
    if parsed is not None and named:
        if type(named[-1]) is type(function) and _parameters(named[-1]) == _parameters(function):
            yield _body(named[-1], function, parsed, code, prompt)
        return
    rest = _rest(prompt, code)
    yield rest
    for blanks in (column, column - function.col_offset):
        yield indent(rest, " " * blanks)


def _body(function: _Function, target: _Function, module: ast.Module, code: str, prompt: str) -> str:
    """Return a function's body as that of `target`, the prompt's function, with the imports and helpers that it needs.

    Statements that the prompt has already are left out. "" if a helper cannot move into the function, or nothing is left.
    """
    needed = _needed(function, module, prompt)
    if needed is None:
        return ""
    given = {ast.dump(statement) for statement in target.body}
    statements = list(dropwhile(lambda statement: ast.dump(statement) in given or _is_text(statement), function.body))
    if not statements:
        return ""
    left_out = function.body[: len(function.body) - len(statements)]
    after = left_out[-1].end_lineno if left_out else None
    lines = code.split("\n")
    parts = [_shift(lines, [statement], target.body[0].col_offset, 0) for statement in needed]
    return "".join([*parts, _shift(lines, statements, target.body[0].col_offset, after or function.lineno)])


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _shift(lines: Sequence[str], statements: Sequence[ast.stmt], column: int, after: int) -> str:
    """Return the source of statements, with comments above them down to line `after`, moved to a column.

    Lines within a string stay as they are.
    """
    first, last = statements[0], statements[-1].end_lineno or statements[-1].lineno
    begin = min([first.lineno, *(each.lineno for each in getattr(first, "decorator_list", ()))])
    if begin <= after:  # on the line of the signature
        return "".join(f"{' ' * column}{ast.unparse(statement)}\n" for statement in statements)
    while after and begin - 1 > after and re.match(r"[ ]*(#|$)", lines[begin - 2]):
        begin -= 1
    fixed = {
        line
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
        for line in range(node.lineno + 1, (node.end_lineno or node.lineno) + 1)
    }
    shift = column - first.col_offset
    moved = (
        line if number in fixed or not line.strip() else _move(line, shift)
        for number, line in enumerate(lines[begin - 1 : last], begin)
    )
    return "".join(f"{line}\n" for line in moved)


def _move(line: str, shift: int) -> str:
    return " " * shift + line if shift >= 0 else line[min(-shift, len(line) - len(line.lstrip(" "))) :]


def _needed(function: _Function, module: ast.Module, prompt: str) -> list[ast.stmt] | None:
    """Return the module's statements that define names that a function uses, in order; None if one cannot move into it."""
    given = parse_python(prompt)
    known = {*dir(builtins), function.name}
    known.update(name for statement in (given.body if given else ()) for name in bound_names(statement))
    waiting: list[ast.AST] = [*function.body]
    needed: set[int] = set()
    while waiting:
        used = {node.id for node in ast.walk(waiting.pop()) if isinstance(node, ast.Name)} - known
        for number, statement in enumerate(module.body):
            if number not in needed and used & bound_names(statement):
                needed.add(number)
                waiting.append(statement)
    chosen = [statement for number, statement in enumerate(module.body) if number in needed]
    is_rebound = any(isinstance(node, ast.Global) for part in (function, *chosen) for node in ast.walk(part))
    has_star = any(isinstance(each, ast.ImportFrom) and each.names[0].name == "*" for each in module.body)
    return None if has_star or (chosen and is_rebound) else chosen


def _parameters(function: _Function) -> list[str]:
    return [node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)]


def _candidates(prompt: str, code: str) -> Iterator[str]:
    """Yield possible continuations of a prompt that does not end with a signature."""
    rest = _rest(prompt, code)
    last = prompt.rstrip().rpartition("\n")[2]
    column = len(last) - len(last.lstrip())
    for blanks in (0, column, column + _INDENTATION):
        yield indent(rest, " " * blanks)


def _rest(prompt: str, code: str) -> str:
    """Return code without the lines at its beginning that repeat the end of the prompt; "" if it rewrites the prompt."""
    given = [line.rstrip() for line in prompt.rstrip().split("\n")]
    lines = code.strip("\n").split("\n")
    bare = [line.rstrip() for line in lines]
    for count in range(min(len(given), len(bare)), 0, -1):
        if given[-count:] == bare[:count]:
            return "\n".join(lines[count:])
    if given[-1] in bare and given[-1].strip():
        return "\n".join(lines[bare.index(given[-1]) + 1 :])
    return "" if next(filter(None, given), "") in bare else "\n".join(lines)


def _join(prompt: str, rest: str) -> str:
    """Return text that begins on a new line after the prompt, and ends with one line break; "" for nothing."""
    if not rest.strip():
        return ""
    before, _, begun = prompt.rpartition("\n")
    text = rest.strip("\n").rstrip() + "\n"
    if begun.strip() or not (before or begun or prompt):
        return f"\n{text}" if prompt else text
    return text.removeprefix(begun)

"""Extract code from an answer: from fences of all kinds, or from between lines of prose."""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["bound_names", "code_of", "parse_python"]

_THOUGHT = re.compile(r"(?:\A|<think(?:ing)?>)(?:(?!<think).)*?</think(?:ing)?>|<think(?:ing)?>.*\Z", re.DOTALL)
_OPENING = re.compile(r"^(?P<prefix>[ \t>]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_OPENING_BEHIND_TEXT = re.compile(
    r"^(?:[^`]|`{1,2}(?!`)|```[^`\n]*```)*(?P<prefix>)(?P<fence>```)(?P<info>[\w+-]*[ \t]*)$"
)
"""Code spans before it are closed on its line."""
_ONE_LINE = re.compile(r"^[ \t>]*```(?P<info>[^`]+)```[ \t]*$")
_BEGINS = r"(?:async[ \t]+def|def|class)[ \t]+\w|import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b|@\w"
_CODE_BEHIND_LABEL = re.compile(rf"^(?:[\w+-]+[ \t]+)??(?P<code>(?:{_BEGINS}).*)$", re.DOTALL)
_FIRST_LINE = re.compile(rf"^(?:{_BEGINS})")
_TAGGED = re.compile(r"\[PYTHON\][ \t]*\n?(?P<code>.*?)(?:\[/PYTHON\]|\Z)", re.DOTALL | re.IGNORECASE)
_DEFINED = re.compile(r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|(\w+)[ \t]*(?::[^=\n]*)?=)", re.MULTILINE)
_NOT_CODE = frozenset(
    {"bash", "console", "markdown", "md", "output", "plain", "plaintext", "sh", "shell", "text", "txt", "zsh"}
)
_JOINABLE = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


class _Block(NamedTuple):
    label: str
    code: str


def code_of(answer: str, *, continues: bool, names: Sequence[str] = ()) -> str:
    """Return the code in an answer.

    An answer that continues its prompt is code up to the end of a fence that the prompt opened. Any other answer is searched
    in this order:

    - the first fences that define `names`, with the fences whose imports and functions they use
    - lines between prose that define `names`
    - the first fence that is neither shell nor output
    - the answer as it is

    Reasoning between <think> and </think> is skipped.

    Args:
        answer: the whole answer.
        continues: whether the answer continues its prompt.
        names: requested Python functions and classes; empty for other languages.
    """
    if continues:
        return answer.partition("\n```")[0]
    text = _THOUGHT.sub("", answer.replace("\r\n", "\n"))
    blocks = [*_fences(text)] or [_Block("python", match["code"].rstrip("\n")) for match in _TAGGED.finditer(text)]
    if names and (code := _join_blocks(blocks, names) or _between_prose(text, names)):
        return code
    filled = [block for block in blocks if block.code.strip()]
    if not filled:
        return "" if blocks else text
    return next((block.code for block in filled if block.label not in _NOT_CODE), filled[0].code)


def _fences(text: str) -> Iterator[_Block]:
    """Yield the fences of a text; the last one may be unclosed."""
    lines = iter(text.split("\n"))
    for line in lines:
        if one_line := _ONE_LINE.match(line):
            yield _block(one_line["info"], [])
            continue
        opening = _OPENING.match(line) or _OPENING_BEHIND_TEXT.match(line)
        if opening:
            yield _block(opening["info"], [*_until(lines, opening["prefix"], opening["fence"])])


def _until(lines: Iterator[str], prefix: str, fence: str) -> Iterator[str]:
    """Yield the lines of a fence up to its end, without their common indentation or quote prefix."""
    for line in lines:
        inner = line.removeprefix(prefix) if line.startswith(prefix) else line.removeprefix(prefix.rstrip())
        if inner.startswith(fence):
            return
        yield inner


def _block(info: str, lines: Sequence[str]) -> _Block:
    """Make a block; `info`, which follows the opening marks, is a label, code, or both."""
    code = _CODE_BEHIND_LABEL.match(info.strip())
    label = re.match(r"[\w+-]*", info.strip())
    first = [code["code"].rstrip()] if code else []
    return _Block(label.group().lower() if label else "", "\n".join([*first, *lines]))


def _join_blocks(blocks: Sequence[_Block], names: Sequence[str]) -> str:
    """Join the first blocks that define the names and the blocks that they use; "" if no block defines one."""
    defining = [_defined_names(block.code) for block in blocks]
    first = (next((position for position, defined in enumerate(defining) if name in defined), None) for name in names)
    taken = {position for position in first if position is not None}
    if not taken:
        return ""
    others = {
        position: defined
        for position, defined in enumerate(defining)
        if position not in taken and not defined & {*names} and _only_defines(blocks[position].code, names)
    }
    wanted, bound = _names_of(blocks[position].code for position in taken)
    while used := {position for position, defined in others.items() if defined & {"*", *wanted - bound}} - taken:
        taken |= used
        more_wanted, more_bound = _names_of(blocks[position].code for position in used)
        wanted, bound = wanted | more_wanted, bound | more_bound
    return "\n".join(blocks[position].code for position in sorted(taken))


def _only_defines(code: str, names: Sequence[str]) -> bool:
    """Return whether all statements define something, and none assigns the result of a name in `names` or of `input`."""
    parsed = parse_python(code)
    if parsed is None or not all(isinstance(statement, _JOINABLE) for statement in parsed.body):
        return False
    assigned = (statement for statement in parsed.body if isinstance(statement, ast.Assign | ast.AnnAssign))
    called = (node.func for each in assigned for node in ast.walk(each) if isinstance(node, ast.Call))
    return not any(isinstance(function, ast.Name) and function.id in {"input", *names} for function in called)


def _names_of(codes: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the global names that modules use, and those that they or Python bind; modules that do not parse are skipped.

    Parameters and local variables of functions are not global.
    """
    wanted: set[str] = set()
    bound = {*dir(builtins)}
    for code in codes:
        if parse_python(code) is None:
            continue
        module = symtable.symtable(code, "answer", "exec")
        bound |= {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
        tables: list[symtable.SymbolTable] = [module]
        while tables:
            table = tables.pop()
            tables += table.get_children()
            wanted |= {symbol.get_name() for symbol in table.get_symbols() if table is module or symbol.is_global()}
    return wanted, bound


def _defined_names(code: str) -> set[str]:
    """Return the names that a module binds at its top level, even if it does not parse."""
    parsed = parse_python(code)
    if parsed is None:
        return {function or name for function, name in _DEFINED.findall(code)}
    return {name for statement in parsed.body for name in bound_names(statement)}


def bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that an import, a definition or an assignment binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return set()


def _between_prose(text: str, names: Sequence[str]) -> str:
    """Return the first run of lines that is Python and defines the names; "" if there is none.

    A run begins with an import, a decorator, a function or a class, and continues for as long as it parses.
    """
    lines = text.split("\n")
    searched = 0  # lines of runs that do not define the names
    for start in (number for number, line in enumerate(lines) if _FIRST_LINE.match(line)):
        if start < searched:
            continue
        end = len(lines)
        while end > start:
            code = "\n".join(lines[start:end])
            wrong = _first_wrong_line(code)
            if wrong is None:
                if {*names} <= _defined_names(code):
                    return code.rstrip("\n")
                searched = end
                break
            end = min(end - 1, start + wrong - 1)
            while end > start and lines[end][:1].isspace():  # the whole statement goes, not a part of its body
                end -= 1
    return ""


def _first_wrong_line(code: str) -> int | None:
    """Return the number, from 1, of the first line that does not parse; None if the module is Python."""
    try:
        ast.parse(code)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None


def parse_python(code: str) -> ast.Module | None:
    """Return a module, or None if it is not Python."""
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None

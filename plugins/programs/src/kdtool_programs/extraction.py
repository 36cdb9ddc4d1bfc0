"""Code extracted from an answer, as a whole program or as the continuation of a prompt.

Code is in fences of all kinds, or between lines of prose. A chat model's reply repeats the prompt, adds imports and helper
functions; `continuation_of` turns it into the text that a base model would write.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Iterable, Iterator, Sequence
from itertools import dropwhile
from textwrap import indent
from typing import NamedTuple

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
_LINE_END = re.compile("\r\n?")  # for Python's parser and in Markdown, besides LF
_TAGGED = re.compile(r"\[PYTHON\][ \t]*\n?(?P<code>.*?)(?:\[/PYTHON\]|\Z)", re.DOTALL | re.IGNORECASE)
_DEFINED = re.compile(r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|(\w+)[ \t]*(?::[^=\n]*)?=)", re.MULTILINE)
_FUTURE = re.compile(r"^from[ \t]+__future__[ \t]+import\b.*\n", re.MULTILINE)
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
    - the first fence that names a language, else is Python, else is neither shell nor output
    - the answer as it is, up to a fence that nothing opened

    Reasoning between <think> and </think> is skipped.

    Args:
        answer: the whole answer.
        continues: whether the answer continues its prompt.
        names: requested Python functions and classes; empty for other languages.
    """
    if continues:
        return _LINE_END.sub("\n", answer).partition("\n```")[0]
    text = _THOUGHT.sub("", _LINE_END.sub("\n", answer))
    blocks = [*_fences(text)] or [_Block("python", match["code"].rstrip("\n")) for match in _TAGGED.finditer(text)]
    if names and (code := _join_blocks(blocks, names) or _between_prose(text, names)):
        return code
    filled = [block for block in blocks if block.code.strip()]
    if not filled:
        fences = [line for line in text.split("\n") if _OPENING.match(line)]
        is_stray = len(fences) == 1 and text.rstrip().endswith(f"\n{fences[0].rstrip()}")
        return text.rpartition(fences[0])[0].rstrip() if is_stray else "" if blocks else text
    likely = [block for block in filled if block.label not in _NOT_CODE] or filled
    labelled = [block for block in likely if block.label]
    return next(iter(labelled or [block for block in likely if _is_program(block.code)] or likely)).code


def _is_program(code: str) -> bool:
    """Return whether a text is Python, and more than a value, as sample data may be."""
    parsed = parse_python(code)
    values = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Name, ast.UnaryOp, ast.BinOp)
    return parsed is not None and any(
        not isinstance(each, ast.Expr) or not isinstance(each.value, values) for each in parsed.body
    )


def _fences(text: str) -> Iterator[_Block]:
    """Yield the fences of a text; the last one may be unclosed."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        line, number = lines[number], number + 1
        if one_line := _ONE_LINE.match(line):
            yield _block(one_line["info"], [])
            continue
        opening = _OPENING.match(line) or _OPENING_BEHIND_TEXT.match(line)
        if opening:
            inner = [_inner(each, opening["prefix"]) for each in lines[number:]]
            ends = [at for at, each in enumerate(inner) if each.startswith(opening["fence"])] or [len(inner)]
            block, end = _block(opening["info"], inner[: ends[0]]), ends[0]
            if block.label in _PYTHON and parse_python(block.code) is None:
                # A fence within a string of the code ends no block: without it, the string is not closed.
                longer = ((_block(opening["info"], inner[:later]), later) for later in ends[1:_NESTED])
                block, end = next((each for each in longer if parse_python(each[0].code) is not None), (block, end))
            yield block
            number += end + 1


_NESTED = 8
"""Fences that are tried as the end of a block."""
_PYTHON = frozenset({"", "py", "python", "python3"})


def _inner(line: str, prefix: str) -> str:
    """Return a line of a fence without the common indentation or quote prefix."""
    return line.removeprefix(prefix) if line.startswith(prefix) else line.removeprefix(prefix.rstrip())


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
    code = "\n".join(blocks[position].code for position in sorted(taken))
    return "".join([*dict.fromkeys(_FUTURE.findall(code)), _FUTURE.sub("", code)]) if len(taken) > 1 else code


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
    prompt, code = (_LINE_END.sub("\n", text) for text in (prompt, code))
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

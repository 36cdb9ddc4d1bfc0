"""Read a teacher's answer: its parts, and the code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Parts", "code_of", "read_parts"]

_FENCE = re.compile(r"^[ \t]*```[ \t]*([^\s`]*)[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_ALIASES = {
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "c++": "cpp",
    "cc": "cpp",
    "golang": "go",
    "rs": "rust",
}


@dataclass(frozen=True)
class Parts:
    """Instruction, response and tests ("" without any)."""

    instruction: str
    response: str
    tests: str = ""


def read_parts(text: str, *, tested: bool) -> Parts | str:
    """Return the parts of an answer, or which part is missing, such as `no <response>`."""
    parts = {name: _part(text, name) for name in ("instruction", "response", *(("tests",) if tested else ()))}
    for name, content in parts.items():
        if not content:
            return f"no <{name}>"
    tests = parts.get("tests", "")
    block = _FENCE.search(tests)
    return Parts(parts["instruction"], parts["response"], block[2] if block else tests)


def code_of(response: str, language: str) -> str:
    """Return the code in a response in one language, block after block; "" without any.

    Blocks that name no language count.
    """
    blocks = [(_ALIASES.get(name.lower(), name.lower()), code) for name, code in _FENCE.findall(response)]
    return "\n".join(code for name, code in blocks if name in {language, ""})


def _part(text: str, name: str) -> str:
    """Return the text between the first opening and the last closing mark of a part."""
    start, end = text.find(f"<{name}>"), text.rfind(f"</{name}>")
    return text[start + len(name) + 2 : end].strip() if 0 <= start < end else ""

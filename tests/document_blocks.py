"""Code blocks of Markdown pages, and the comparison of a command's output with what a page shows. For tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

__all__ = ["Block", "blocks", "compare"]


@dataclass(frozen=True)
class Block:
    """A code block: `line` counts from 1, `reason` says why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    reason: str = ""

    @property
    def file(self) -> str:
        """The file that the block is, from its first line."""
        found = re.match(r"# (?:file: )?([\w./-]+\.\w+)\n", self.text)
        return found[1] if found else ""


def blocks(page: Path, text: str) -> Iterator[Block]:
    """Yield a page's code blocks; directives of the site generator are none."""
    reason = ""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in {"fence", "code_block"} and not token.info.startswith("{"):
            line = token.map[0] + 1 if token.map else 0
            yield Block(page, line, token.info.strip() or "console", token.content, reason)
        found = re.fullmatch(r"<!-- not run: (.+) -->\s*", token.content) if token.type == "html_block" else None
        reason = found[1] if found else ""


def compare(expected: list[str], shown: str) -> None:
    """Compare output line by line; `…` stands for anything, alone on a line for any lines.

    Lines of progress, which end with " …", are left out of what was shown.
    """
    if not any(line.strip() for line in expected):
        return
    parts = [re.escape(line.rstrip()).replace("…", "[^\n]*") + "\n" for line in expected]
    pattern = "".join(r"(?:[^\n]*\n)*?" if part == "[^\n]*\n" else part for part in parts)
    plain = "".join(f"{line.rstrip()}\n" for line in shown.splitlines() if not line.endswith(" …"))
    assert re.fullmatch(pattern + r"\s*", plain), f"the output is\n{shown}"

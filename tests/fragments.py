"""Check the form of the changelog's fragments: one paragraph of whole sentences, which `towncrier` makes an entry of a list.

Prints what is wrong, and exits with 1 if anything is. The names of the files are checked by `towncrier` itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packages import ROOT

__all__ = ["problems"]

FOLDER = ROOT / "changelog.d"
LONGEST = 123
"""Characters in a line: an entry is indented by two."""


def problems(text: str) -> Iterator[str]:
    """Yield what is wrong with the text of a fragment."""
    lines = text.removesuffix("\n").split("\n")
    if not all(line.strip() for line in lines):
        yield "expected one paragraph, without empty lines"
    elif re.match(r"\s*([-*#>]|\d+\.)\s", text):
        yield "begins as a list or heading; towncrier makes the entry, so write the sentence only"
    elif not lines[-1].endswith("."):
        yield "must end with a full stop"
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST:
            yield f"line {number} has {len(line)} characters, at most {LONGEST} are allowed"


def main(folder: Path) -> int:
    """Print problems, and return the exit code."""
    found = [
        f"{path.name}: {text}" for path in sorted(folder.glob("*.md")) for text in problems(path.read_text("utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(FOLDER))

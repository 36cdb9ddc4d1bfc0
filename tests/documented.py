"""The example of each page `docs/write-a-KIND.md`: the name it has as a package, and its code. For tests of these pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Example", "examples"]

DOCS = Path(__file__).resolve().parent.parent / "docs"


class Example(NamedTuple):
    """What a page shows: `kdtool new KIND NAME`, and the file with its code."""

    kind: str
    name: str
    file: str
    code: str

    @property
    def class_name(self) -> str:
        """The component's class."""
        found = re.search(r"^class (\w+)\((?:kdtool\.|CausalStudent|DocumentEvaluator)", self.code, re.MULTILINE)
        return found[1] if found else ""

    @property
    def import_name(self) -> str:
        """The module of its package."""
        return f"kdtool_{self.kind}_{self.name.replace('-', '_')}"


def examples() -> Mapping[str, Example]:
    """Return the example of every kind of component or command."""
    return {
        path.stem.removeprefix("write-a-"): _example(path)
        for path in sorted(DOCS.glob("write-a-*.md"))
        if path.stem != "write-a-plugin"
    }


def _example(path: Path) -> Example:
    text = path.read_text(encoding="utf-8")
    block = re.search(r"```python\n# (?:file: )?([\w.]+)\n(.*?)```", text, re.DOTALL)
    created = re.search(r"kdtool new ([a-z]+) ([a-z0-9-]+)", text)
    if block is None or created is None or created[1] != path.stem.removeprefix("write-a-"):
        raise ValueError(f"{path} shows no file with its example, or not how to make a package of it")
    return Example(created[1], created[2], block[1], block[2])

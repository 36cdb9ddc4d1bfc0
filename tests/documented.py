"""The two examples of each page `docs/write-a-KIND.md`: a first one, and the one that `kdtool new` makes. For tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Example", "examples"]

DOCS = Path(__file__).resolve().parent.parent / "docs"


class Example(NamedTuple):
    """The example of a page: `kdtool new KIND NAME`, the file with its code, and a short file before it."""

    kind: str
    name: str
    file: str
    code: str
    first_file: str
    first_code: str

    @property
    def class_name(self) -> str:
        """The component's class."""
        return _class_name(self.code)

    @property
    def first_class_name(self) -> str:
        """The class of the first example."""
        return _class_name(self.first_code)

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
    blocks = re.findall(r"```python\n# (?:file: )?([\w.]+)\n(.*?)```", text, re.DOTALL)
    created = re.search(r"kdtool new ([a-z]+) ([a-z0-9-]+)", text)
    if len(blocks) < 2 or created is None or created[1] != path.stem.removeprefix("write-a-"):
        raise ValueError(f"{path} must show two files with examples, and how to make a package of the second")
    return Example(created[1], created[2], *blocks[1], *blocks[0])


def _class_name(code: str) -> str:
    found = re.search(r"^class (\w+)\([A-Za-z.]+\):", code, re.MULTILINE)
    return found[1] if found else ""

"""Write the list of packages in the root's pyproject.toml, from which uv takes them out of this clone.

    python tests/workspace.py

uv refuses to build a member of the workspace while another member that it requires is missing there.
"""

from __future__ import annotations

import re
import sys

from packages import ROOT, declared, folders

__all__ = ["sources"]

SECTION = re.compile(r"^\[tool\.uv\.sources\][^\n]*\n(?:[^\[\n][^\n]*\n)*", re.MULTILINE)


def sources() -> str:
    """Return the section `tool.uv.sources` with a line for every package."""
    names = sorted(declared(folder)["project"]["name"] for folder in folders())
    lines = [f"{name} = {{ workspace = true }}\n" for name in names]
    return "".join(["[tool.uv.sources] # written by tests/workspace.py\n", *lines])


def main() -> int:
    """Replace the section."""
    path = ROOT / "pyproject.toml"
    path.write_text(SECTION.sub(lambda _: sources(), path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Run mypy on every package of the repository, as one program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Return mypy's exit code."""
    sources = sorted(path for pattern in ("core/src", "*/*/src") for path in ROOT.glob(pattern))
    names = sorted(
        package.name for source in sources for package in source.iterdir() if (package / "py.typed").exists()
    )
    path = os.pathsep.join(str(source) for source in sources)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    arguments = [argument for name in names for argument in ("-p", name)]
    checked = subprocess.run([*command, *arguments], env={**os.environ, "MYPYPATH": path}, cwd=ROOT, check=False)
    return checked.returncode


if __name__ == "__main__":
    sys.exit(main())

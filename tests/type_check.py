"""Run mypy on every package of the repository as one program, and then on all tests.

    python tests/type_check.py            # both
    python tests/type_check.py sources    # packages only

Everything must be installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packages import ROOT, folders


def main() -> int:
    """Return mypy's worst exit code."""
    sources = [package for folder in folders() for package in folder.glob("src/*") if (package / "py.typed").exists()]
    codes = [_mypy(*(argument for package in sources for argument in ("-p", package.name)))]
    codes += [_mypy(*map(str, files)) for files in _tests() if "sources" not in sys.argv]
    return max(codes)


def _tests() -> Iterator[list[Path]]:
    """All test files, in groups in which no name (`conftest`) stands twice: mypy sees modules, not folders."""
    files = [path for tests in _test_folders() for path in sorted(tests.glob("*.py"))]
    while files:
        group = {path.name: path for path in files}
        yield list(group.values())
        files = [path for path in files if path not in group.values()]


def _test_folders() -> list[Path]:
    """Folders from which a test imports modules next to it: those of the packages' parts, too."""
    tests = [tests for folder in (ROOT, ROOT / "docs", *folders()) if (tests := folder / "tests").is_dir()]
    return [*tests, *(part for folder in tests for part in sorted(folder.iterdir()) if any(part.glob("*.py")))]


def _mypy(*what: str) -> int:
    path = os.pathsep.join(map(str, [*(folder / "src" for folder in folders()), *_test_folders()]))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *what]
    return subprocess.run(command, env={**os.environ, "MYPYPATH": path}, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

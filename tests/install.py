"""Install wheels of the repository into an environment, and always those that were built last.

    python tests/install.py WHEELS kdtool[all] --group losses/ce/pyproject.toml:test

tox calls it, and so does `package_alone`. The folder of wheels comes first; the rest goes to `uv pip install`. Versions
and hashes of third-party packages are those of `locks/test.txt`, unless KDTOOL_TEST_UNLOCKED is set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from packages import ROOT, declared, folders

__all__ = ["install"]


def install(python: str | Path, wheels: Sequence[str | Path], *arguments: str | Path) -> None:
    """Install into the environment of `python` from folders of wheels; end the process where that fails."""
    # A wheel that was built again has the same version as before: uv must be told that it is another.
    ours = [f"--reinstall-package={declared(folder)['project']['name']}" for folder in folders()]
    links = os.environ.get("UV_FIND_LINKS", "").split(",")  # uv leaves its variable aside where the option is given
    found = [f"--find-links={folder}" for folder in (*wheels, *links) if folder]
    known = [f"--constraint={ROOT / 'constraints.txt'}"]
    if not os.environ.get("KDTOOL_TEST_UNLOCKED"):
        known.append(f"--constraint={ROOT / 'locks' / 'test.txt'}")
    # Without `--no-sources`, uv would take our packages from the workspace instead of the wheels.
    command = ["uv", "pip", "install", "--quiet", "--no-sources", "--python", python]
    command += [*known, *found, *ours, *arguments]
    process = subprocess.run(command, check=False)
    if process.returncode:
        sys.exit(process.returncode)


if __name__ == "__main__":
    install(sys.executable, sys.argv[1:2], *sys.argv[2:])

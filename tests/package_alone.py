"""Install one package's wheel beside the core, with nothing else of the project, and run its tests."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(environment: str, wheels: str, arguments: list[str]) -> int:
    """Return the first exit code that is not 0; `environment` is `pkg-` and the distribution's name without `kdtool-`."""
    name = f"kdtool-{environment.removeprefix('pkg-')}"
    folder = _folder(name)
    install = ["uv", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), "--find-links", wheels]
    for command in ([*install, name], [sys.executable, "-m", "pytest", str(folder), *arguments]):
        if code := subprocess.run(command, check=False, cwd=ROOT).returncode:
            return code
    return 0


def _folder(name: str) -> Path:
    for path in ROOT.glob("*/*/pyproject.toml"):
        if tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] == name:
            return path.parent
    sys.exit(f"no package of this repository is called {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))

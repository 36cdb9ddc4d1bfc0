"""Build a wheel of every package of the repository into one folder, from which test environments install."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(folder: Path) -> int:
    """Empty the folder and build; return the first exit code that is not 0."""
    shutil.rmtree(folder, ignore_errors=True)
    packages = [path.parent for pattern in ("core", "*/*") for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))]
    for package in packages:
        command = ["uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(package)]
        if code := subprocess.run(command, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

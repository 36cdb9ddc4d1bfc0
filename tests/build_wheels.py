"""Build a wheel of every package of the repository into one folder, from which test environments install.

tox calls it in its environment `wheels`. Each wheel is built in isolation, with what its package says it is built with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packages import ROOT, folders


def main(folder: Path) -> int:
    """Empty the folder and build; return the worst exit code."""
    shutil.rmtree(folder, ignore_errors=True)

    def build(package: Path) -> int:
        command = ["uv", "build", "--quiet", "--wheel", "--python", sys.executable, "--build-constraint"]
        return subprocess.run(
            [*command, ROOT / "locks" / "test.txt", "--out-dir", folder, package], check=False
        ).returncode

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return max(pool.map(build, folders()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

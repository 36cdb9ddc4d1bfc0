"""Write the bill of materials of a release beside its wheels: all packages and what they need, as CycloneDX.

    python tests/sbom.py WHEELS

Everything is installed into a fresh environment in the versions of `locks/test.txt`, and `kdtool.cdx.json` lists what is
there: versions, licences, and which package needs which.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from install import install

__all__ = ["write_bill"]


def write_bill(wheels: Path) -> Path:
    """Install all packages from a folder of wheels, and return the file that lists them and what they need."""
    bill = wheels / "kdtool.cdx.json"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        python = Path(folder, "Scripts/python.exe" if os.name == "nt" else "bin/python")
        install(python, [wheels], "kdtool[all]", "kdtool-testing")
        command: list[str | Path] = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
        subprocess.run([*command, "--output-file", bill, python], check=True)
    return bill


if __name__ == "__main__":
    print(write_bill(Path(sys.argv[1])))

"""Prove that a package made by `kdtool new` works as it is, for every kind: it is built, installed alone, tested, and run.

    python tests/scaffolds.py WHEELS [KIND …]

tox calls it where `kdtool new` is installed. What is proved of a package of the repository is proved of these
(`package_alone`): that what they declare is enough. Then all are installed together with everything that kdtool offers,
and the recipe of each is run (`scaffold_recipes`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from install import install
from kdtool._plugins.registry import GROUPS
from package_alone import prove
from packages import ROOT

NAME = "tried"


def main(wheels: Path, kinds: list[str]) -> int:
    """Try every kind, say which failed, and return 1 if one did."""
    failed = []
    with TemporaryDirectory() as folder:
        for kind in kinds or GROUPS:
            for name, options in ((NAME, []), ("bare", ["--bare"])):
                print("kdtool new", kind, name, *options, flush=True)
                if _try(kind, name, options, wheels, Path(folder)):
                    failed.append(f"{kind} {name}")
        if _run_recipes(wheels, Path(folder)):
            failed.append("recipes")
    print("these fail:" if failed else "all work", *failed)
    return bool(failed)


def _try(kind: str, name: str, options: list[str], wheels: Path, folder: Path) -> int:
    new = [sys.executable, "-m", "kdtool", "new", kind, name, *options]
    subprocess.run(new, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    package, built = folder / f"kdtool-{kind}-{name}", folder / "dist"
    build = ["uv", "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir"]
    subprocess.run([*build, str(built), str(package)], check=True)
    return prove(package, [wheels, built], Path(sys.prefix) / "alone", pytest=("-q",))


def _run_recipes(wheels: Path, folder: Path) -> int:
    environment = Path(sys.prefix) / "together"
    subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)], check=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install(python, [wheels, folder / "dist"], "kdtool[all]", *(path.name for path in folder.glob("kdtool-*")))
    program = [str(python), "-P", str(ROOT / "tests" / "scaffold_recipes.py"), str(folder)]
    return subprocess.run(program, check=False, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))

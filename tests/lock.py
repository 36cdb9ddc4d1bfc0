"""Write the lock files: exact versions of third-party packages with the hashes of their files, in `locks/`.

    python tests/lock.py              # again with what a requirement now needs; locked versions stay
    python tests/lock.py --upgrade    # with the newest versions

A lock holds for every system and for Python 3.11 and newer. Packages of PyTorch are left out: their files differ by index
(CPU or CUDA), and the user chooses the index. `constraints.txt` has their versions; they require exact versions of CUDA.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packages import ROOT, declared, folders

sys.path.insert(0, str(ROOT))
from bootstrap import LOCKS, benchmark_requirements, needed_by, third_party

__all__ = ["NAMES", "requirements"]

NAMES = ("test", "everything", "quickstart", "tox", "benchmarks")
"""The locks: for tox's environments; for the jobs of `bootstrap.py`."""
_ELSEWHERE = re.compile(r"(torch\w*|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
_HEADER = "# Written by `python tests/lock.py`: versions and hashes of third-party packages.\n"


def requirements(name: str) -> list[str]:
    """Return the third-party requirements that the lock called `name` serves."""
    tools = declared(ROOT)["dependency-groups"]
    if name == "tox":
        return sorted(tools["tox"])
    found = third_party(needed_by("kdtool[quickstart]" if name == "quickstart" else "kdtool[all]"))
    if name == "test":
        found += [r for group in tools.values() for r in group]
        found += [r for folder in folders() for r in declared(folder).get("dependency-groups", {}).get("test", [])]
    if name == "benchmarks":
        found += benchmark_requirements()
    return sorted({requirement for requirement in found if not requirement.startswith("kdtool")})


def main(arguments: list[str]) -> int:
    """Write all locks; the later ones take the versions of the first, except benchmarks."""
    LOCKS.mkdir(exist_ok=True)
    for name in NAMES:
        first: list[str | Path] = [] if name in {"test", "benchmarks"} else ["--constraint", LOCKS / "test.txt"]
        _write(LOCKS / f"{name}.txt", requirements(name), [*first, *arguments])
    return 0


def _write(lock: Path, wanted: list[str], options: list[str | Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "requirements.in")
        asked.write_text("\n".join(wanted), encoding="utf-8")
        written = Path(folder, "lock.txt")
        if lock.exists():  # uv keeps the versions of a file that it replaces
            written.write_bytes(lock.read_bytes())
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--constraint", str(ROOT / "constraints.txt"), "--output-file"]
        subprocess.run([*command, written, asked, *options], check=True, cwd=ROOT)
        entries = re.split(r"^(?=\S)", written.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lock.write_text(_HEADER + "".join(e for e in entries if not _ELSEWHERE.match(e)), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

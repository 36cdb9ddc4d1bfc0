"""Files that programs see: Python's standard library, whatever the installation, and no installed packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import kdtool
import pytest
from kdtool_programs import Language, Module, Program, Sandbox, SandboxError, Step, Task, find_packages

MARK = "benchmark_with_solutions"
SEEN = f"""
import importlib, os, sys
MARK = {MARK!r}
def seen():
    # names of covered files and folders stay, what is in them cannot be read
    found = [os.path.join(place, name) for place, _, files in os.walk("/") for name in files]
    return [path for path in found if any(part in path for part in (MARK, "/pip/", "/six.py")) and readable(path)]
def readable(path):
    try:
        return bool(open(path, "rb").read(1))
    except OSError:
        return False
def imported():
    names = ("ssl", "sqlite3", "lzma", "bz2", "hashlib", "decimal", "multiprocessing.pool", "ctypes", "sysconfig", "venv")
    for name in names:
        importlib.import_module(name)
    import zoneinfo
    return str(zoneinfo.ZoneInfo("Europe/Rome")), sysconfig_of(sys.prefix)
def sysconfig_of(prefix):
    import sysconfig
    return sysconfig.get_config_var("SOABI") is not None and prefix
"""
TESTS = "assert seen() == [], seen()\nassert imported()[0] == 'Europe/Rome'\nassert imported()[1], imported()"
JUDGING = """\
import json, sys
import kdtool
from kdtool_programs import Module, Sandbox, Task
source, tests, names = json.load(sys.stdin)
with Sandbox() as sandbox:
    (verdict,) = sandbox.run([Task("seen", Module(source, tests, tuple(names)), 60.0)])
print(verdict.status, verdict.reason)
"""


@pytest.fixture(params=["/tmp", "/var/tmp", "home"])  # noqa: S108 (a place where someone may install Python)
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a folder in which Python may be installed, that others may enter where it is shared with them."""
    with tempfile.TemporaryDirectory(dir=Path.home() if request.param == "home" else request.param) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _install(prefix: Path) -> Path:
    """Install this Python once more, with a package in each place where packages may be; return its executable."""
    executable = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]  # typeshed has it for Windows alone
    library = Path(os.__file__).parent
    copied = prefix / sys.platlibdir / library.name
    left_out = shutil.ignore_patterns("site-packages", "dist-packages", "test", "config-*", "__pycache__")
    shutil.copytree(library, copied, ignore=left_out, copy_function=_link, symlinks=True)
    (prefix / "bin").mkdir()
    shutil.copy2(executable, prefix / "bin" / executable.name)
    for folder in (copied / "site-packages", copied / "dist-packages", copied, prefix / "share", prefix / "lib"):
        (folder / MARK).mkdir(parents=True)
        (folder / MARK / "HumanEval.jsonl").write_text("solutions")
        (folder / f"{MARK}.py").write_text("solutions")
    return prefix / "bin" / executable.name


def _judge(executable: Path, folder: Path) -> str:
    found = subprocess.run(
        [executable, "-P", "-c", JUDGING],
        input=json.dumps([SEEN, TESTS, ["seen", "imported"]]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout + found.stderr


def test_a_base_python_shows_its_standard_library_and_no_package(
    needs_bubblewrap: None, place: Path, tmp_path: Path
) -> None:
    assert _judge(_install(place / "python"), tmp_path) == "passed \n"


def test_python_alone_comes_without_other_programs(needs_bubblewrap: None) -> None:
    source = (
        "import os\ndef f():\n    return os.path.exists('/bin/sh'), os.path.exists('/usr/bin'), os.listdir('/usr')\n"
    )
    tests = "assert f()[:2] == (False, False), f()\nassert set(f()[2]) <= {'lib', 'share'}"
    with Sandbox() as sandbox:
        (verdict,) = sandbox.run([Task("a", Module(source, tests, ("f",)), 60.0)])
    assert verdict.has_passed, verdict


def test_packages_of_toolchains_and_of_the_system_are_not_shown(
    needs_bubblewrap: None, shell: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        for part in (
            "lib/node_modules",
            "lib/python3.11/site-packages",
            "envs/one/lib/python3.11/site-packages",
            "bin",
        ):
            (Path(folder) / part).mkdir(parents=True)
            (Path(folder) / part / f"{MARK}.txt").write_text("seen")
        monkeypatch.setattr(type(shell), "folders", lambda self: (Path(folder),))
        here = f"[ -f {folder}/bin/{MARK}.txt ] && [ -d /usr/include ] && [ ! -e /usr/local/share ]"
        walk = f"found=$(find / -xdev -name {MARK}.txt 2>/dev/null | wc -l); echo $found >&2; [ $found = 1 ]"
        empty = (
            'for place in $(find /usr -name "*-packages" -o -name node_modules); do rmdir $place/* && exit 4; done; :'
        )
        step = Step(("/bin/sh", "-c", f"({here}) && ({walk.replace(' -xdev', '')}) && ({empty})"), "tests")
        with Sandbox(languages=[shell]) as sandbox:
            (verdict,) = sandbox.run([Task("a", Program({}, (step,)), 60.0)])
    assert verdict.has_passed, verdict


_INSTALLED = "import os\ndef f():\n    return sorted(os.listdir('/python/packages'))\n"
_OF_NUMPY = """\
import numpy as np
def f(): return [np.sum([1, 2]), np.bool_(1), np.float64(0.5), np.float32(0.5)], np.linalg.det(np.eye(2)), {np.int64(1): 2}
"""


def test_only_packages_that_are_named_are_shown(needs_bubblewrap: None) -> None:
    named = Module(
        f"import pluggy\n{_INSTALLED}",
        "assert [n for n in f() if '-' not in n] == ['numpy', 'numpy.libs', 'pluggy']",
        ("f",),
    )
    numbers = Module(_OF_NUMPY, "assert f() == ([3, True, 0.5, 0.5], 1.0, {1: 2})", ("f",))
    written = Module("open('/python/packages/pluggy/x', 'w')", "")
    works = {"named": named, "numbers": numbers, "written": written, "pytest": Module("import pytest", "")}
    with Sandbox(packages=find_packages(["numpy", "pluggy"])) as sandbox:
        verdicts = {found.id: found for found in sandbox.run(Task(name, work, 60.0) for name, work in works.items())}
    assert verdicts["named"].has_passed, verdicts
    assert verdicts["numbers"].has_passed, verdicts
    assert "Read-only" in verdicts["written"].reason
    assert verdicts["pytest"].reason == "ModuleNotFoundError: No module named 'pytest'"


@pytest.mark.parametrize("names", [("no-such",), ("numpy", "no-such"), ("kdtool-programs",)])
def test_a_package_that_is_not_installed_is_refused_by_name(names: tuple[str, ...]) -> None:
    with pytest.raises(kdtool.UsageError, match=f"packages: {names[-1]}: not installed next to kdtool"):
        find_packages(names)


def test_a_package_without_those_that_it_needs_is_refused(needs_bubblewrap: None) -> None:
    with pytest.raises(SandboxError, match=r"python with pytest(.|\n)*No module named(.|\n)*all that it needs"):
        Sandbox(packages=find_packages(["pytest"])).__enter__()


def test_a_toolchain_below_tmp_is_refused_with_the_reason(
    needs_bubblewrap: None, shell: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(shell), "folders", lambda self: (Path("/tmp"),))  # noqa: S108
    with pytest.raises(SandboxError, match="cannot be shown to programs: their own folder is /tmp"):
        Sandbox(languages=[shell])

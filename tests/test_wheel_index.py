"""The page and the files of requirements beside wheels: pip and uv install from them, with no index, and check hashes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import wheel_index
from packages import declared, folders
from wheel_index import write_index


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _write_wheel(folder: Path, name: str, *requirements: str) -> Path:
    module = name.replace("-", "_")
    info = f"{module}-0.1.0.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requirements]
    files = {
        f"{module}.py": "",
        f"{info}/METADATA": "\n".join([*metadata, ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{module}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(file, text)
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder of three wheels: `kdtool-first-x` requires `kdtool-second-x`."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    _write_wheel(folder, "kdtool-first-x", "kdtool-second-x>=0.1")
    _write_wheel(folder, "kdtool-second-x")
    _write_wheel(folder, "kdtool-third-x")
    return folder


@pytest.fixture
def url(wheels: Path) -> Iterator[str]:
    """The address of a server for the folder, as of the files of a release."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=wheels))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module", params=["pip", "uv"])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A fresh environment, and the program that installs into it."""
    folder = tmp_path_factory.mktemp(request.param)
    bare = [] if request.param == "pip" else ["--without-pip"]
    subprocess.run([sys.executable, "-m", "venv", *bare, folder], check=True)
    return request.param, folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture
def environment(fresh: tuple[str, Path]) -> Iterator[tuple[str, Path]]:
    """The environment, which is as fresh for the next test."""
    yield fresh
    if names := _installed(fresh[1]):
        subprocess.run(["uv", "pip", "uninstall", "--quiet", "--python", fresh[1], *names], check=True)


def _install(environment: tuple[str, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Install without any index: neither settings nor variables of this machine count."""
    program, python = environment
    command: list[str | Path] = ["uv", "pip", "install", "--no-config", "--python", python, "--no-cache"]
    if program == "pip":
        command = [python, "-m", "pip", "install", "--isolated", "--no-cache-dir"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    clean |= {"PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [*command, "--no-index", *arguments], env=clean, capture_output=True, encoding="utf-8", check=False
    )


def _installed(python: Path) -> set[str]:
    code = "import importlib.metadata as m; print(*(d.name for d in m.distributions() if 'kdtool' in d.name))"
    return set(subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_a_package_and_what_it_needs_come_from_the_page(environment: tuple[str, Path], wheels: Path, url: str) -> None:
    write_index(wheels, {})
    done = _install(environment, "--find-links", f"{url}/index.html", "kdtool-first-x")
    assert done.returncode == 0, done.stderr
    assert _installed(environment[1]) == {"kdtool-first-x", "kdtool-second-x"}


def test_a_set_comes_from_its_requirements(environment: tuple[str, Path], wheels: Path, url: str) -> None:
    write_index(wheels, {"some": ["kdtool-second-x", "kdtool-first-x"]}, url)
    done = _install(environment, "--requirement", f"{url}/some.txt")
    assert done.returncode == 0, done.stderr
    assert _installed(environment[1]) == {"kdtool-first-x", "kdtool-second-x"}


@pytest.mark.parametrize("what", ["page", "requirements"])
def test_a_wheel_that_was_replaced_is_refused(environment: tuple[str, Path], wheels: Path, url: str, what: str) -> None:
    write_index(wheels, {"some": ["kdtool-third-x"]}, url)
    with zipfile.ZipFile(next(wheels.glob("*third*")), "a") as wheel:
        wheel.writestr("added.py", "")
    page = ["--find-links", f"{url}/index.html", "kdtool-third-x"]
    done = _install(environment, *page if what == "page" else ["--requirement", f"{url}/some.txt"])
    assert done.returncode
    assert "hash" in done.stderr.lower()
    assert not _installed(environment[1])


def test_one_command_covers_every_package(tmp_path: Path) -> None:
    names = {declared(folder)["project"]["name"] for folder in folders()}
    for name in names:
        _write_wheel(tmp_path, name)
    assert wheel_index.main([str(tmp_path), "--url", "https://example.invalid/release/"]) == 0
    links = (tmp_path / "index.html").read_text(encoding="utf-8").count('href="https://example.invalid/release/kdtool')
    listed = {
        title: {line.split(" @ ")[0] for line in (tmp_path / f"{title}.txt").read_text(encoding="utf-8").splitlines()}
        for title in wheel_index.SETS
    }
    assert links == len(names)
    assert listed["everything"] == names
    assert {"kdtool", "kdtool-loss-ce", "kdtool-transformers"} <= listed["quickstart"] < listed["everything"]

"""The browser's runtime: files of two npm packages, of pinned versions and hashes, kept in the user's cache."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import kdtool


class _Package(NamedTuple):
    name: str
    version: str
    integrity: str
    files: tuple[str, ...]


_PACKAGES = (
    _Package(
        "onnxruntime-web",
        "1.30.0",
        "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        (
            *("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
            *("dist/ort.webgpu.min.mjs", "dist/ort-wasm-simd-threaded.asyncify.mjs"),
            "dist/ort-wasm-simd-threaded.asyncify.wasm",
        ),
    ),
    _Package(
        "@huggingface/tokenizers",
        "0.2.0",
        "sha512-LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        ("dist/tokenizers.min.mjs",),
    ),
)
RUNTIME = tuple(Path(file).name for package in _PACKAGES for file in package.files)
"""Names of the runtime's files, in one folder."""


def require_runtime(setting: str) -> None:
    """Check that the runtime is available, or can be fetched: nothing is fetched.

    Raises:
        UsageError: a given folder lacks a file of it, or npm is neither needed before nor installed.
    """
    if setting != "npm":
        folder = Path(setting).expanduser()
        if missing := [name for name in RUNTIME if not (folder / name).is_file()]:
            raise kdtool.UsageError(
                f"web.runtime: {folder} lacks {missing[0]}; expected the files {', '.join(RUNTIME)} of "
                f"{_versions()}: copy them there, or set runtime: npm"
            )
    elif not _is_whole(_cache()) and shutil.which("npm") is None:
        raise kdtool.UsageError(
            f"web.runtime: npm is not installed; expected it, to fetch {_versions()}: install Node.js, or set runtime to a "
            "folder with their files"
        )


def find_runtime(setting: str) -> Path:
    """Return the folder with the runtime's files, fetched by `npm pack` if the cache lacks them.

    Raises:
        UsageError: as of `require_runtime`.
        ServiceError: npm cannot fetch the packages.
        PluginError: a package has another hash than the pinned one.
    """
    require_runtime(setting)
    if setting != "npm":
        return Path(setting).expanduser()
    folder = _cache()
    if not _is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix="fetching-") as work:
            whole = Path(work, "runtime")
            whole.mkdir()
            for package in _PACKAGES:
                _unpack(package, _fetch(package, Path(work)), whole)
            shutil.rmtree(folder, ignore_errors=True)
            whole.rename(folder)
    return folder


def copy_runtime(setting: str, folder: Path) -> None:
    """Copy the runtime's files into a folder, which is made."""
    source = find_runtime(setting)
    folder.mkdir()
    for name in RUNTIME:
        shutil.copyfile(source / name, folder / name)
    (folder / "README.txt").write_text(
        f"Files of the npm packages {_versions()}, unchanged.\nonnxruntime-web: MIT licence, © Microsoft Corporation.\n"
        "@huggingface/tokenizers: Apache-2.0 licence, © Hugging Face.\n",
        encoding="utf-8",
    )


def _cache() -> Path:
    from kdtool_torch import cache_folder

    versions = "-".join(package.version for package in _PACKAGES)
    return cache_folder().parent / "npm" / f"web-runtime-{versions}"


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in RUNTIME)


def _versions() -> str:
    return " and ".join(f"{package.name} {package.version}" for package in _PACKAGES)


def _fetch(package: _Package, folder: Path) -> Path:
    """Return the package's archive, with the pinned hash."""
    npm = shutil.which("npm")
    command = [str(npm), "pack", f"{package.name}@{package.version}", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)  # noqa: S603
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
        raise kdtool.ServiceError(
            f"web.runtime: npm cannot fetch {package.name} {package.version}: {reason}; expected access to the registry "
            "that npm is set up for: try again, or set runtime to a folder with the files"
        )
    archive = folder / done.stdout.split()[-1]
    digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.integrity:
        raise kdtool.PluginError(
            f"web.runtime: {package.name} {package.version} has the hash {digest}; expected {package.integrity}: fetch it "
            "from a registry with the published package"
        )
    return archive


def _unpack(package: _Package, archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        for file in package.files:
            member = opened.extractfile(f"package/{file}")
            if member is None:
                raise kdtool.PluginError(
                    f"web.runtime: {archive.name} lacks {file}; expected it: report this to the plugin web's authors"
                )
            (folder / Path(file).name).write_bytes(member.read())

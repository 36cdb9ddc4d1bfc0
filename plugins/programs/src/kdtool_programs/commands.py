"""The command that starts one worker: in bubblewrap, in a container, or with no isolation.

systemd, if it grants that, puts each worker into a memory group of the kernel (cgroup). The kernel counts all memory of a
group, including its own memory; a worker's samples see only a part of that.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from kdtool_programs.tasks import SandboxError
from kdtool_programs.view import EXECUTABLE, LIBRARIES, Package, base_executable, system_parts, view_of

NAME = "NAME"
"""Stands for a worker's own name in its commands."""
USER = "USER"
"""Placeholder for a worker's user and nobody's group in its commands: the kernel counts pipes and signals by user."""
TMP_BYTES = 128 * 2**20
_BYTES_OF_ALL = ("--memory", str(2 * 2**30), "--memory-swap", str(2 * 2**30))
_FOLDER = "/tmp"  # noqa: S108 (inside the sandbox, where it is empty and the sandbox's own)
_NOBODY = "65534"
_OLDEST = (0, 8)
_DEVICES = ("null", "full", "random", "urandom")
"""Without zero: mapped, it is shared memory that no limit counts."""
_NAMESPACES = ("user", "pid", "net", "ipc", "uts", "cgroup-try")
_FIRST_TO_GO = 1000
_EXPENDABLE = ("/bin/sh", "-c", f'{{ echo {_FIRST_TO_GO} > /proc/self/oom_score_adj; }} 2> /dev/null; exec "$@"', "sh")
"""Prefix that makes the kernel kill the command, and not the run, when the machine runs out of memory."""
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": _FOLDER, "TMPDIR": _FOLDER, "LANG": "C.UTF-8"}
_NO_QUEUES = ("--tmpfs", "/dev/mqueue:ro,size=4k")
_UNWRITTEN = {
    "docker": ("--ipc", "none", *_NO_QUEUES),
    "podman": ("--ipc", "private", "--read-only-tmpfs=false", "--tmpfs", "/dev/shm:ro,size=4k", *_NO_QUEUES),  # noqa: S108
}
"""Options that remove an engine's own writable folders: /dev/shm, /dev/mqueue, podman's /run and /var/tmp."""
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
"""Engines pass these on to their containers, and they may contain passwords."""
_INSTALL = "install it (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"


def bubblewrap(toolchains: Sequence[Path] | None, packages: Sequence[Package] = ()) -> list[str]:
    """Return a worker's command in bubblewrap.

    Args:
        toolchains: folders that are read-only inside, besides Python and the programs of /usr; None shows only Python.
            /proc exists only with toolchains: they may find their libraries by /proc/self/exe.
        packages: of Python, read-only inside.

    Raises:
        SandboxError: bubblewrap is missing, or too old, or there is something that it cannot show.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError(f"generated code runs only in a sandbox, and bubblewrap (bwrap) is not here; {_INSTALL}")
    _check_version(program)
    view = view_of(toolchains, packages)
    command = [program, *(f"--unshare-{name}" for name in _NAMESPACES), "--disable-userns", "--die-with-parent"]
    command += ["--new-session", "--as-pid-1", "--cap-drop", "ALL", "--uid", _NOBODY, "--gid", _NOBODY]
    command += ["--hostname", "sandbox", "--clearenv"]
    environment = {**_ENVIRONMENT, "LD_LIBRARY_PATH": str(LIBRARIES)}
    command += [part for name, value in environment.items() for part in ("--setenv", name, value)]
    command += [] if toolchains is None else system_parts()
    command += view.arguments()
    command += ["--proc", "/proc"] if toolchains else []
    command += [part for name in _DEVICES for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    command += ["--size", str(TMP_BYTES), "--perms", "0700", "--tmpfs", _FOLDER]
    command += ["--remount-ro", "/", "--chdir", _FOLDER, "--", *_python(str(EXECUTABLE))]
    before = [*memory_group(), *_EXPENDABLE]
    if os.geteuid() != 0:
        return [*before, *command]
    folders = view.folders()
    launch = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
    return [*before, *launch, str(len(folders)), *folders, *command]


def container(program: str, image: str) -> list[str]:
    """Return a worker's command for docker or podman, which must have the image already.

    Raises:
        SandboxError: the program is missing.
    """
    command = [_engine(program), "run", "--name", NAME, "--rm", "--interactive", "--pull", "never"]
    command += ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    command += ["--user", USER, "--pids-limit", "256", "--hostname", "sandbox", *_UNWRITTEN[program]]
    command += ["--oom-score-adj", str(_FIRST_TO_GO), *_BYTES_OF_ALL]
    command += ["--tmpfs", f"{_FOLDER}:rw,exec,nosuid,nodev,size={TMP_BYTES},mode=1777"]
    command += [part for name in _PROXIES for case in (name, name.upper()) for part in ("--env", f"{case}=")]
    executable, *arguments = _python("python3")  # the first process, whatever image and engine would start before it
    command += ["--workdir", _FOLDER, "--init=false", "--no-healthcheck", "--entrypoint", executable]
    return [*command, image, *arguments]


def container_ending(program: str) -> list[str]:
    """Return the command that ends a container, which would outlive the killed process that started it.

    Raises:
        SandboxError: the program is missing.
    """
    return [_engine(program), "kill", NAME]


def unsafe() -> list[str]:
    """Return a worker's command without any isolation."""
    return [*_EXPENDABLE, *_python(str(base_executable()))]


def _engine(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise SandboxError(f"{program} is not here; install it, or bubblewrap, which is faster")
    return path


def _python(executable: str) -> list[str]:
    boot = files("kdtool_programs").joinpath("inside", "boot.py").read_text(encoding="utf-8")
    return [executable, "-I", "-S", "-B", "-X", "no_debug_ranges", "-c", boot]


@cache
def _check_version(program: str) -> None:
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    numbers = re.search(r"(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise SandboxError(f"{version.strip()} is too old: expected {oldest} or newer; {_INSTALL}")


_GROUP_LIMITS = ("MemoryMax=2G", "MemorySwapMax=0")
"""Above the limits of a task, which end it with a reason."""
_SYSTEMD_SECONDS = 5.0
"""Seconds to wait for systemd's answer."""


@cache
def memory_group() -> tuple[str, ...]:
    """Return the prefix of a command that gives it its own memory group; () where systemd grants none."""
    program = shutil.which("systemd-run")
    if program is None:
        return ()
    manager = () if os.geteuid() == 0 else ("--user",)
    limits = (part for limit in _GROUP_LIMITS for part in ("--property", limit))
    prefix = (program, *manager, "--scope", "--quiet", "--collect", *limits, "--")
    try:
        done = subprocess.run(  # noqa: S603 (systemd's own program)
            [*prefix, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SYSTEMD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if done.returncode == 0 else ()

"""A Ray cluster of two nodes on this machine, started as a user does."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ray_cluster"]

_SECONDS = 240.0
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "240", "OMP_NUM_THREADS": "1"}


@contextmanager
def ray_cluster(folder: Path, nodes: int = 2, cores: int = 1) -> Iterator[str]:
    """Yield the address of a cluster; at the end its processes are gone. `folder` is short: sockets are in it.

    Only processes with the environment of this one can use it: each cluster has a new token.
    """
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    port, processes = _free_port(), list[subprocess.Popen[bytes]]()
    address = f"127.0.0.1:{port}"
    head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
    try:
        for number in range(nodes):
            options = head if number == 0 else (f"--address={address}",)
            processes.append(_start(folder, number, cores, *options))
            _wait_for(folder / f"node-{number}.log", processes[-1])
        yield address
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)


def _start(folder: Path, number: int, cores: int, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, f"--num-cpus={cores}", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"]
    with (folder / f"node-{number}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **_QUIET})


def _wait_for(log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS
    while b"Ray runtime started" not in (text := log.read_bytes()):
        assert process.poll() is None, text.decode()
        assert time.monotonic() < deadline, text.decode()
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port

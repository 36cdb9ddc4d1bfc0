"""The server for tests as the documentation starts it: from a terminal, or in the background."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import urllib.request


def test_at_a_given_port_the_server_serves_without_a_terminal_until_it_is_interrupted() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "kdtool_testing.servers.claude", "{}", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/bill", timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()

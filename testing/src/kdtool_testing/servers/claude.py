"""For tests: run a server with the Messages API on 127.0.0.1, which fails as configured and keeps its own bill.

`serve` runs it in a thread, `serve_process` in a separate process, which outlives a killed client. From a terminal:

    python -m kdtool_testing.servers.claude '{}' 8765
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from aiohttp import web

from kdtool_testing.servers.claude_api import Bill, Faults, MessagesServer


@contextmanager
def serve(faults: Faults | None = None, port: int = 0) -> Iterator[MessagesServer]:
    """Run a server in a thread as long as the context lasts; its address is `url`. Port 0 stands for a free one."""
    server, loop, ready = MessagesServer(faults), asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def work() -> None:
        runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),), daemon=True)
    thread.start()
    if not ready.wait(30):
        raise RuntimeError("the server did not start")
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


class ServerProcess:
    """A server in a separate process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def bill(self) -> Bill:
        """Return what it charged so far."""
        with urllib.request.urlopen(f"{self.url}/bill", timeout=30) as answer:  # noqa: S310 - on this machine
            return Bill(**json.load(answer))

    def set_faults(self, faults: Faults) -> None:
        """Have it fail in another way from now on."""
        data = json.dumps(asdict(faults)).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/faults", data=data), timeout=30).close()  # noqa: S310


@contextmanager
def serve_process(faults: Faults | None = None) -> Iterator[ServerProcess]:
    """Run a server in a process as long as the context lasts."""
    command = [sys.executable, "-m", "kdtool_testing.servers.claude", json.dumps(asdict(faults or Faults()))]
    process = subprocess.Popen(  # noqa: S603 - this module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None  # noqa: S101 - by PIPE
        yield ServerProcess(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def main(faults: str = "{}", port: str = "0") -> None:
    """Serve at a given port until interrupted; at a free one until standard input is closed, when the test has ended."""
    with serve(Faults(**json.loads(faults)), int(port)) as server, suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        if int(port):
            threading.Event().wait()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])

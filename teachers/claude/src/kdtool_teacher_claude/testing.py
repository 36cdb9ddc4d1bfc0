"""For tests: run a server with the Messages API on 127.0.0.1, which fails as configured and keeps its own bill.

`serve` runs it in a thread, `serve_process` in a separate process, which outlives a killed client. From a terminal:

    python -m kdtool_teacher_claude.testing '{}' 8765
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from aiohttp import web

from kdtool_teacher_claude.testing_replies import (
    _LONG_FACTOR,
    _LONG_PROMPT,
    _THINKING,
    MODEL,
    THINKING_MODEL,
    write_code,
    write_task,
    write_verdict,
)
from kdtool_teacher_claude.testing_server import Bill, Faults, MessagesServer

PRICES = {
    MODEL: (3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000),
    THINKING_MODEL: (100_000, 500_000, 10_000, 125_000, 200_000),
}
"""Picodollars per token: input, output, read from the cache, written for five minutes, for an hour."""
CACHED_FROM = 1024


def thinking_tokens_of(body: dict[str, Any]) -> int:
    """Return the tokens that the model thinks before it answers."""
    if body["model"] != THINKING_MODEL or body.get("thinking") == {"type": "disabled"}:
        return 0
    return _THINKING[body.get("output_config", {}).get("effort", "medium")]


def price_of(model: str, usage: dict[str, Any], half: int) -> int:
    written = usage["cache_creation"]
    cached = usage["cache_read_input_tokens"]
    new = (usage["input_tokens"], written["ephemeral_5m_input_tokens"], written["ephemeral_1h_input_tokens"])
    counts = (new[0], usage["output_tokens"], cached, new[1], new[2])
    total = sum(count * price for count, price in zip(counts, PRICES[model], strict=True))
    if model == THINKING_MODEL and sum(new) + cached > _LONG_PROMPT:
        total *= _LONG_FACTOR
    return int(total // half)


def key_of(body: dict[str, Any]) -> str:
    content = {name: value for name, value in body.items() if name != "stream"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_reply(body: dict[str, Any]) -> str:
    """Return a task, a verdict or code if the request wants one, else a line about the request."""
    turns = sum(message["role"] == "user" for message in body["messages"])
    system, key = _system_of(body), key_of(body)
    written = write_task(system, turns, key) or write_verdict(system, key)
    if written is None:
        written = write_code(system, _last_message(body), key)
    if written is not None:
        return written
    return f"answer {key_of(body)[:12]} to: {_last_message(body)[-40:]}"


def _system_of(body: dict[str, Any]) -> str:
    system = body.get("system", "")
    return system if isinstance(system, str) else "".join(block["text"] for block in system)


def _last_message(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


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
    command = [sys.executable, "-m", "kdtool_teacher_claude.testing", json.dumps(asdict(faults or Faults()))]
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

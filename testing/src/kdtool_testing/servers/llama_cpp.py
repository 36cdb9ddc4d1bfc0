"""For tests: a real llama.cpp server in a separate process, from the wheel `xllamacpp` (extra `llama-cpp`).

`llama_cpp_server` starts one; the module itself is the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

_READY = "listening: "


@contextmanager
def llama_cpp_server(model: Path, name: str, *, context: int = 1024, key: str = "") -> Iterator[str]:
    """Serve a GGUF file as long as the context lasts; gives the address for `url`.

    Args:
        model: the file.
        name: what the server calls the model.
        context: tokens of a prompt and its answer.
        key: what clients must show; "" for nothing.
    """
    command = [sys.executable, "-m", "kdtool_testing.servers.llama_cpp", str(model), name, str(context)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KDTOOL_TEST_SERVER_KEY": key}
    process = subprocess.Popen(  # noqa: S603 - this module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        lines = iter(process.stdout or ())
        address = next((line.removeprefix(_READY).strip() for line in lines if line.startswith(_READY)), None)
        if address is None:
            raise RuntimeError(f"no server came up for {model}")
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()  # or a full pipe would stop it
        yield f"{address}/v1"
    finally:
        process.kill()
        process.communicate()


def main(model: str, name: str, context: str) -> None:
    """Serve until standard input is closed: the process does not outlive the test that started it."""
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = 2
    params.n_ctx = params.n_parallel * int(context)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    if key := os.environ["KDTOOL_TEST_SERVER_KEY"]:
        params.api_keys = [key]
    server = xllamacpp.Server(params)
    print(f"{_READY}{server.listening_address}", flush=True)
    sys.stdin.read()
    os._exit(0)  # its threads would go on serving


if __name__ == "__main__":
    main(*sys.argv[1:])

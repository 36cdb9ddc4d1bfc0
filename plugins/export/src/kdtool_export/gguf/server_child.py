"""Serve one model with llama.cpp on the loopback interface, protected by a key; a script for a child process.

The process reads one JSON object from standard input, prints its address, and lives until standard input is closed.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

from kdtool_export.gguf.processes import READY


def main() -> None:
    """Serve until the parent process ends."""
    settings = json.loads(sys.stdin.readline())
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.offline = True
    params.ui = False
    params.warmup = False
    params.verbosity = 1  # only errors: the output is kept until the process ends
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context"]  # each slot gets its part
    params.cache_ram_mib = 0  # slots keep their own last text, and no others
    if settings["slots"] > 1:
        params.n_batch = params.n_ubatch = (
            128  # a long prompt delays the others, and cancellation, by this number of tokens
        )
    if settings["threads"]:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    server = xllamacpp.Server(params)
    print(f"{READY}{json.dumps(server.listening_address)}", flush=True)
    sys.stdin.read()
    os._exit(0)  # its threads would continue to serve


if __name__ == "__main__":
    main()

"""The process that runs llama.cpp: one model, served on this machine alone to who knows the key.

It reads one JSON object from standard input, says where it listens, and lives until standard input is closed. llama.cpp ends
its process when it meets what it did not expect; here that ends this one and not the run.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

__all__ = ["READY"]

READY = "listening: "
"""Begins the line that tells the address."""


def main() -> None:
    """Serve until the parent is gone."""
    told = json.loads(sys.stdin.readline())
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = told["model"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [told["key"]]
    params.offline = True
    params.ui = False
    params.warmup = False
    params.n_parallel = 1  # what is computed beside an answer would change its rounding
    params.n_ctx = told["context"]
    if told["threads"]:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = told["threads"]
    server = xllamacpp.Server(params)
    print(f"{READY}{server.listening_address}", flush=True)
    sys.stdin.read()
    os._exit(0)  # its threads would go on serving


if __name__ == "__main__":
    main()

"""First token, tokens/s and infilling of a GGUF file: `Runtime.stream` against the bare server of the same wheel.

    python benchmarks/gguf_streaming.py [--file smollm2-135m.gguf] [--pairs 20] [--tokens 128] [--threads 2]

Both get the same text in turns, so that they meet the same load of the machine: each pair begins with a prompt that neither
has read before. The bare server is xllamacpp's with its own settings, asked by `http.client`. Infilling generates 16 tokens
behind 1,000 characters of code that were read before, as an editor does; a file without marks for it continues the code.
Without `--file` it exports the teacher smollm2 as q4_k_m. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import kdtool
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.runtime import GGUFRuntime
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_testing import make_run


class Timing(NamedTuple):
    """Seconds until the first token, and tokens a second behind it."""

    first: float
    rate: float


def main() -> None:
    """Measure pairs, and print both with the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, help="of both; without, each chooses its own")
    options = parser.parse_args()
    code = Path(sysconfig.get_paths()["stdlib"], "argparse.py").read_text(encoding="utf-8")
    with TemporaryDirectory() as scratch:
        file = options.file or export(Path(scratch))
        print(f"{file.name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        own = GGUFRuntime(file, context=4096, threads=options.threads)
        with own as runtime, bare_server(file, options.threads) as address:
            compare(runtime, address, code, options.pairs, options.tokens)
            fill_gaps(runtime, code, options.pairs)
            print(f"memory of the runtime: {(runtime.memory() or 0) / 1e6:.0f} MB")


def export(folder: Path) -> Path:
    """Write SmolLM2-135M as q4_k_m, without an importance matrix."""
    (folder / "run").mkdir()
    run = make_run(folder / "run", examples=[kdtool.Example("a", kdtool.Text("def f(): pass\n" * 99), split="test")])
    runtime = SmolLM2(SmolLM2.Config(dtype="float32")).kdtool_open(run, kdtool.Subject("teacher", "teacher"))
    if runtime is None or runtime.model is None:
        raise SystemExit("the teacher smollm2 cannot be opened here")
    runtime.model.save(folder / "student")
    return GGUF(GGUF.Config(imatrix="none", compare=512)).kdtool_export(run, folder / "student").path


def compare(runtime: GGUFRuntime, address: str, code: str, pairs: int, tokens: int) -> None:
    """Print both servers' figures, and the ratio in each pair, for prompts of about 50 and 500 tokens."""
    for size in (200, 2000):
        found: list[tuple[Timing, Timing]] = []
        for number in range(pairs + 1):
            start = number * 100 + size
            prompt = f"# {number}\n{code[start : start + size]}"
            one = [partial(ours, runtime, prompt, tokens), partial(bare, address, prompt, tokens)]
            first, second = (one, one[::-1])[number % 2]
            timings = [first(), second()]
            found.append((timings[number % 2], timings[1 - number % 2]))
        del found[0]  # pages of the file are read for the first time
        print(f"prompts of {size} characters, {tokens} tokens, {pairs} pairs:")
        show("  first token", [(a.first * 1000, b.first * 1000) for a, b in found], "ms", "<= 1.15")
        show("  speed", [(a.rate, b.rate) for a, b in found], "tokens/s", ">= 0.95")


def show(what: str, pairs: list[tuple[float, float]], unit: str, target: str) -> None:
    """Print medians, and the median ratio with its quartiles."""
    low, middle, high = quantiles([a / b for a, b in pairs], n=4)
    a, b = (median(values) for values in zip(*pairs, strict=True))
    print(
        f"{what}: {a:.1f} {unit}, bare {b:.1f}; ratio {middle:.3f} ({low:.3f} to {high:.3f}), target {target}",
        flush=True,
    )


def fill_gaps(runtime: GGUFRuntime, code: str, number: int) -> None:
    """Print how long 16 tokens take while someone types behind code that was read before."""
    infills = "infill" in runtime.abilities
    seconds: list[float] = []
    for typed in range(number + 1):
        before, after = code[3000 : 4000 + 4 * typed], code[4200:4260] if infills else None
        request = kdtool.Request("infill", before, 16, suffix=after)
        began = time.perf_counter()
        pieces = list(runtime.stream(request))
        if typed and pieces[-1].tokens_out == 16:
            seconds.append(time.perf_counter() - began)
    low, middle, high = (1000 * part for part in quantiles(seconds, n=4))
    what = "infilling" if infills else "more code (the file has no FIM tokens)"
    print(f"16 tokens of {what}, prefix cached: p50 {middle:.0f} ms ({low:.0f} to {high:.0f}), target <= 200 ms")


def ours(runtime: GGUFRuntime, prompt: str, tokens: int) -> Timing:
    """Time `Runtime.stream`."""
    began = time.perf_counter()
    times = [time.perf_counter() for piece in runtime.stream(kdtool.Request("a", prompt, tokens)) if piece.text]
    return timing(began, times)


def bare(address: str, prompt: str, tokens: int) -> Timing:
    """Time the bare server."""
    body = {"prompt": prompt, "n_predict": tokens, "stream": True, "samplers": ["temperature"], "temperature": 0}
    began = time.perf_counter()
    connection = HTTPConnection(address)
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    events = (json.loads(line[6:]) for line in connection.getresponse() if line.startswith(b"data: "))
    times = [time.perf_counter() for event in events if event["content"]]
    connection.close()
    return timing(began, times)


def timing(began: float, times: list[float]) -> Timing:
    """Return the figures of an answer from the time of each piece."""
    return Timing(times[0] - began, (len(times) - 1) / (times[-1] - times[0]))


@contextmanager
def bare_server(file: Path, threads: int | None) -> Iterator[str]:
    """Start the wheel's server in a process of its own, as it is but for the address; give the address."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(str(file), threads, sender), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.kill()
        process.join()


def serve(file: str, threads: int | None, sender: Any) -> None:
    """Serve until killed."""
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = file, ["127.0.0.1"], 0
    params.n_ctx, params.verbosity = 4096, 1
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    sender.send(server.listening_address.rpartition("/")[2])
    time.sleep(10**6)


if __name__ == "__main__":
    main()

"""`kdtool serve` under more load than it can carry, and beside the server of the same llama.cpp without it.

    python benchmarks/serve_load.py load quickstart --minutes 10
    python benchmarks/serve_load.py beside [runs/quickstart/exports/quickstart-q4_k_m.gguf] --rounds 20

`load` keeps twice as many clients as the server has slots and places in its queue; they wait as long as a 429 asks, and a
tenth of them leave early. Expected: no status but 200 and 429, a 429 for what exceeds the capacity, and memory that does
not grow after the first minute. `beside` asks both servers in turns for the same greedy completion, each with an idle
machine to itself: time to the first token (at most 1.15 × that of the bare server), tokens a second (at least 0.95 ×), and
the median time of 16 infilled tokens whose prefix is cached (at most 200 ms for a model of 135 M parameters in q4_k_m on
two cores); where a model has no FIM tokens, of 16 tokens behind that prefix. The bare server's time for the same stands
beside it. Without a file, `beside` takes a Llama of 135 M parameters with random weights in q4_k_m: its rows are what
K-quants take, it has FIM tokens, and speed does not depend on weights.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import torch
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.calibration import Prepared
from kdtool_export.gguf.quantisation import write_quantised
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_code_llama_tokenizer
from kdtool_transformers import TransformersModel, open_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

PROMPT = "".join(f"def add_{number}(value):\n    return value + {number}\n\n\n" for number in range(12)) + "def area("
BARE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port, params.ui = sys.argv[1], ["127.0.0.1"], 0, False
params.n_parallel, params.n_ctx = 1, 2048
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "beside"])
    parser.add_argument("model", nargs="?", help="a run, or a model's folder or file; for `beside` a GGUF file")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    if options.what == "load" and options.model is None:
        parser.error("load needs a model")
    with TemporaryDirectory() as folder:
        options.model = options.model or str(_write_random(Path(folder)))
        with _serve(options.model, options.queue) as (process, url):
            if options.what == "load":
                _load(process, url, options)
            else:
                _beside(url, options)


def _write_random(folder: Path) -> Path:
    """Write a student of 135 M parameters, which no training has changed, as q4_k_m."""
    save_code_llama_tokenizer(folder, 32_016, 20_000_000, infilling=True)
    shape = LlamaConfig(
        vocab_size=32_016,
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=16,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    print(f"random weights, {model.num_parameters():,} parameters", flush=True)
    student = TransformersModel(model, open_tokenizer(folder, offline=True))
    config = GGUF.Config(type="q4_k_m", imatrix="none")
    return write_quantised(make_run(folder, name="random"), student, Prepared([], [], None, 0), config)


@contextmanager
def _serve(model: str, queue: int) -> Iterator[tuple[psutil.Process, str]]:
    command = [sys.executable, "-m", "kdtool", "serve", model, "--port", "0", "--queue", str(queue)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        page = process.stdout.readline()
        if not page:
            sys.exit("kdtool serve did not start")
        try:
            yield psutil.Process(process.pid), page.split()[1].rstrip("/")
        finally:
            process.terminate()
            print(f"exit code {process.wait()}")


def _load(process: psutil.Process, url: str, options: argparse.Namespace) -> None:
    with httpx.Client(timeout=300) as client:
        _ask(client, url, options.tokens)
    slots = int(float(re.findall(r"^kdtool_slots\S* (\S+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)[0]))
    clients = 2 * (slots + options.queue)
    print(f"{slots} slots, {options.queue} places, {clients} clients")
    statuses: Counter[str] = Counter()
    firsts: list[float] = []
    memory: list[tuple[float, int]] = []
    end = time.monotonic() + 60 * options.minutes

    def work(seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(timeout=300) as client:
            while time.monotonic() < end:
                status, seconds = _ask(client, url, options.tokens, leave=rng.random() < 0.1)
                statuses[status] += 1
                if status == "429":
                    time.sleep(max(0.0, min(seconds, end - time.monotonic())))
                elif seconds:
                    firsts.append(seconds)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(clients)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while time.monotonic() < end:
        time.sleep(min(5.0, max(0.1, end - time.monotonic())))
        memory.append((time.monotonic() - began, _resident(process)))
    for thread in threads:
        thread.join(120)
    print(f"statuses {dict(statuses)}")
    print(f"first token: median {statistics.median(firsts):.2f} s, the queue included")
    settled = [size for seconds, size in memory if seconds > min(60.0, 20 * options.minutes)]
    third = max(1, len(settled) // 3)
    early, late = statistics.median(settled[:third]), statistics.median(settled[-third:])
    print(f"memory: {early / 1e6:.1f} MB early, {late / 1e6:.1f} MB late, {max(settled) / 1e6:.1f} MB at most")


def _resident(process: psutil.Process) -> int:
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))


def _ask(client: httpx.Client, url: str, tokens: int, *, leave: bool = False) -> tuple[str, float]:
    """Return the status of a streamed request ("left" if the client leaves), and the seconds to its first piece.

    With 429 they are those that the client should wait.
    """
    body = {"prompt": PROMPT[-200:], "max_tokens": tokens, "stream": True, "temperature": 1.0}
    began = time.perf_counter()
    try:
        with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            if response.status_code == 429:
                return "429", float(response.headers["Retry-After"])
            first = 0.0
            for line in response.iter_lines():
                if line.startswith('data: {"error"'):
                    return line[:200], 0.0
                first = first or (time.perf_counter() - began if response.status_code == 200 else 0.0)
                if leave and first:
                    return "left", first
            return str(response.status_code), first
    except httpx.HTTPError as error:
        return type(error).__name__, 0.0


def _beside(url: str, options: argparse.Namespace) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BARE, options.model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as bare:
        assert bare.stdout
        servers = {"kdtool serve": url, "bare": bare.stdout.readline().strip()}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for number in range(options.rounds + 2):
            for name, address in servers.items():
                figures = _time(address, f"# {number}\n{PROMPT}", options.tokens)
                if number >= 2:  # the first ones warm up
                    found[name].append(figures)
        for name, figures in found.items():
            first, rate = (statistics.median(values) for values in zip(*figures, strict=True))
            print(f"{name:<13} first token {1000 * first:7.1f} ms   {rate:7.1f} tokens/s")
        ratios = [
            statistics.median(ours[place] / theirs[place] for ours, theirs in zip(*found.values(), strict=True))
            for place in (0, 1)
        ]
        print(f"ratio         first token {ratios[0]:7.3f}      {ratios[1]:7.3f}")
        gaps = [
            {name: _gap(address, number) for name, address in servers.items()} for number in range(options.rounds + 2)
        ]
        for name in servers:
            (kind,) = {each[name][0] for each in gaps}
            parts = statistics.quantiles((1000 * each[name][1] for each in gaps[2:]), n=20, method="inclusive")
            print(
                f"{name:<13} 16 tokens {kind}, prefix cached: median {parts[9]:.0f} ms (quartiles {parts[4]:.0f} to "
                f"{parts[14]:.0f}), 95 % within {parts[18]:.0f} ms"
            )
        added = statistics.median(1000 * (each["kdtool serve"][1] - each["bare"][1]) for each in gaps[2:])
        print(f"kdtool serve adds {added:.0f} ms to 16 tokens, the median of the pairs")
        bare.terminate()


def _time(address: str, prompt: str, tokens: int) -> tuple[float, float]:
    """Return the seconds to the first piece, and tokens a second from there on."""
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 0}
    began = time.perf_counter()
    first = last = 0.0
    pieces = 0
    with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=300) as response:
        for line in response.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                last = time.perf_counter()
                first = first or last
                pieces += 1
    return first - began, (pieces - 1) / (last - first)


def _gap(url: str, number: int) -> tuple[str, float]:
    """Return where 16 tokens were generated, and the seconds from the request to the whole answer."""
    prefix, suffix = PROMPT + "w" * (number % 2), "\n\nprint(area(1, 2))\n"
    asked = {"infilling": ("/infill", {"input_prefix": prefix, "input_suffix": suffix, "n_predict": 16})}
    asked["behind a prompt"] = ("/v1/completions", {"prompt": prefix, "max_tokens": 16, "temperature": 0})
    for kind, (path, body) in asked.items():
        began = time.perf_counter()
        response = httpx.post(f"{url}{path}", json=body, timeout=60)
        if response.status_code == 200:
            return kind, time.perf_counter() - began
    raise SystemExit(response.text)


if __name__ == "__main__":
    main()

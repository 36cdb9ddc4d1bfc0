"""Program of a subject's own process: load a model with plain transformers, then generate or read when asked.

Run as `python -m kdtool_evaluator_efficiency._worker`. The first line of standard input is the task, each further one asks
for one turn, or to read a long text; answers are JSON lines on standard output, and nothing else may print there.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import psutil

_PIECE = 512
"""Tokens read at once, as llama.cpp does."""


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not reach the pipe
    # Imported before the task comes: all processes start together, but load one after the other.
    torch = import_module("torch")
    import_module("transformers")
    task = json.loads(sys.stdin.readline())
    model, prompt, facts = _load(task)
    _say(answers, facts)
    for line in sys.stdin:
        request = json.loads(line)
        if "read" in request:
            _say(answers, _read(model, prompt.device, request["read"]))
            continue
        timing = _generate(model, prompt, request["generate"], request["seconds"])
        device_bytes = torch.cuda.max_memory_allocated() if prompt.device.type == "cuda" else 0
        _say(answers, {**timing, "peak_bytes": _peak_bytes(), "device_bytes": device_bytes})


def _say(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def _load(task: dict[str, Any]) -> tuple[Any, Any, dict[str, int]]:
    import torch
    import transformers

    torch.set_num_threads(task["threads"])
    before = psutil.Process().memory_info().rss
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        task["folder"],
        dtype=getattr(torch, task["dtype"]),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    model = model.to(task["device"]).eval()
    context = _context(model)
    length = min(task["prompt"], max(1, context // 2))
    generated = min(task["generated"], max(2, context - length))
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(model.config.vocab_size, (1, length), generator=generator).to(task["device"])
    counted = model
    if hasattr(model.config, "quantization_config"):  # several weights may be one stored number
        with torch.device("meta"):
            counted = transformers.AutoModelForCausalLM.from_config(model.config)
    parameters = sum(parameter.numel() for parameter in counted.parameters())
    return model, prompt, {
        "prompt": length, "generated": generated, "parameters": parameters, "bytes_before": before
    }  # fmt: skip


def _context(model: Any) -> int:
    return getattr(model.config, "max_position_embeddings", None) or 2**31


def _cache_name(model: Any) -> str:
    """Return the name of the cache among a model's arguments and outputs: `past_key_values` before transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _read(model: Any, device: Any, count: int) -> dict[str, int]:
    """Read `count` tokens, or as many as fit into the context, and return the resident memory including their states."""
    import torch

    generator = torch.Generator().manual_seed(0)
    text = torch.randint(model.config.vocab_size, (1, min(count, _context(model))), generator=generator)
    name, states = _cache_name(model), None
    with torch.inference_mode():
        for piece in torch.split(text.to(device), _PIECE, dim=1):
            states = model(input_ids=piece, use_cache=True, logits_to_keep=1, **{name: states})[name]
    on_device = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    return {"tokens": text.shape[1], "resident_bytes": psutil.Process().memory_info().rss + on_device}


def _generate(model: Any, prompt: Any, count: int, seconds: float) -> dict[str, float]:
    """Generate `count` tokens, or as many as `seconds` after the first allow, and return the speed."""
    import torch

    name = _cache_name(model)
    with torch.inference_mode():
        start = perf_counter()
        output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        token = int(output.logits[0, -1].argmax())  # reading the token waits for the device
        first = perf_counter()
        done, now = 0, first
        while done < count - 1 and (done == 0 or now - first < seconds):
            step = torch.tensor([[token]], device=prompt.device)
            output = model(input_ids=step, use_cache=True, **{name: output[name]})
            token = int(output.logits[0, -1].argmax())
            done, now = done + 1, perf_counter()
        return {"first_token_seconds": first - start, "tokens_per_second": done / (now - first), "tokens": done + 1}


def _peak_bytes() -> int:
    """Return the most memory that this process ever had resident."""
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage: on Linux its maximum includes the parent's memory from before exec
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()

"""Everything that a GPU shows, in one go of less than eight minutes: a table of rates, memory, kernels and waits.

    python benchmarks/gpu.py [--out docs/benchmarks/gpu.md] [--tiny]

Each part is a process with a limit of its own, so that one that fails leaves the others: JSD from hidden states beside
Liger's where it is installed (`jsd_head.py`); a training step, its kernels, each transform with each sort of loss,
generating and recording (`gpu_part.py`); and TRL's DistillationTrainer where TRL is installed (`gpu_trl.py`). `--tiny`
takes small models, for a test on a CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from kdtool_torch import pick_device

HERE = Path(__file__).resolve().parent
LIMITS = {"jsd head": 90, "train": 60, "kernels": 60, "trl": 90, "texts": 60, "transforms": 120}
"""Most seconds of each part on a GPU."""
JSD_SIZES = {True: ["--tokens", "64", "--student", "32", "--teacher", "64", "--vocabulary", "512", "--rounds", "2"]}


def main() -> int:
    """Run the parts, print the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the page here too")
    parser.add_argument("--parts", nargs="+", default=list(LIMITS), choices=LIMITS)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device, start = pick_device(), perf_counter()
    found = {part: _run(part, tiny=options.tiny) for part in options.parts}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    text = page(found, name, perf_counter() - start, tiny=options.tiny)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 0


def page(found: Mapping[str, Mapping[str, Any]], device: str, seconds: float, *, tiny: bool) -> str:
    """Return a Markdown page of all parts' figures: for each part, rows of a name, a figure's name and the figure."""
    sizes = "tiny models" if tiny else "the shapes of SmolLM2, 1.7B and 360M, with random weights"
    lines = ["# What does a GPU show?", ""]
    lines += [f"`benchmarks/gpu.py` on {device}, {sizes}, torch {torch.__version__}, in {seconds:.0f} s.", ""]
    lines += ["| part | what | figure | value |", "|---|---|---|---|"]
    for part, rows in found.items():
        for what, figures in rows.items():
            lines += [f"| {part} | {what} | {figure} | {_show(value)} |" for figure, value in figures.items()]
    return "\n".join(lines) + "\n"


def _run(part: str, *, tiny: bool) -> dict[str, Any]:
    """Return a part's figures, or how it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        if part == "jsd head":
            command = [str(HERE / "jsd_head.py"), "--json", str(file), *JSD_SIZES.get(tiny, [])]
        elif part == "trl":
            command = [str(HERE / "gpu_trl.py"), *["--tiny"] * tiny]
        else:
            command = [str(HERE / "gpu_part.py"), part, *["--tiny"] * tiny]
        limit = 600 if tiny else LIMITS[part]
        try:
            done = subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return {"-": {"stopped": f"after {limit} s"}}
        if done.returncode and not file.exists():
            print(done.stderr, file=sys.stderr)
            return {"-": {"failed": (done.stderr.strip().splitlines() or ["without a word"])[-1][:200]}}
        if part == "jsd head":
            return _jsd(json.loads(file.read_text(encoding="utf-8")))
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def _jsd(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{tokens} tokens, {program}": {key: of[key] for key in ("milliseconds", "memory_gb")}
        for tokens, programs in found["found"].items()
        for program, of in programs.items()
    }


def _show(value: Any) -> str:
    if value is None:
        return "not measured here"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and value < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    sys.exit(main())

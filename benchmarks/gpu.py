"""Everything that a GPU shows, in one go of less than eight minutes: a table of rates, memory, kernels and waits.

    python benchmarks/gpu.py [--out gpu.md] [--parts train trl ...] [--batch ROWS] [--tiny]

Each part (`gpu_part.py`) is a process that is stopped after some time, and the page is rewritten after each, so that one
that fails leaves the others. Time that a part does not need is left to the next. JSD from hidden states is compared with
Liger's where that is installed, and training with TRL's DistillationTrainer where that is. Take fewer rows per step
(`--batch`) if the GPU has little memory. `--tiny` takes small models, for a test on a CPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

PART = Path(__file__).resolve().parent / "gpu_part.py"
LIMITS = {
    "jsd head": 75, "train": 50, "kernels": 40, "trl": 90, "texts": 50, "none": 50, "lora": 30, "liger": 30, "compile": 60,
}  # fmt: skip
"""Most seconds of each part on a GPU, and it may take what the parts before it left; the last four are transforms."""
PACKAGES = ("torch", "transformers", "triton", "liger-kernel", "trl", "peft")
Found = dict[str, dict[str, dict[str, Any]]]
"""For each part, by what was measured, figures by name."""


def main() -> int:
    """Run the parts, writing the page after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the page here too")
    parser.add_argument("--parts", nargs="+", default=list(LIMITS), choices=LIMITS)
    parser.add_argument("--batch", type=int, help="rows per step (default: 8)")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    start, found, device = perf_counter(), Found(), _device()
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    sizes = [*["--tiny"] * options.tiny, *(["--batch", str(options.batch)] if options.batch else [])]
    end = perf_counter()
    for part in options.parts:
        end += 600 if options.tiny else LIMITS[part]
        found[part] = _run(part, sizes, round(end - perf_counter()))
        text = page(found, device, sizes, perf_counter() - start)
        if options.out:
            options.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


def page(found: Found, device: str, sizes: Sequence[str], seconds: float) -> str:
    """Return a Markdown page with a table of the parts' figures."""
    models = "tiny models" if "--tiny" in sizes else "the shapes of SmolLM2, 1.7B and 360M, with random weights"
    lines = ["# What does a GPU show?", ""]
    lines += [f"`{' '.join(['benchmarks/gpu.py', *sizes])}` on {device}, {models}, in {seconds:.0f} s.", ""]
    lines += [f"Python {platform.python_version()}, " + ", ".join(map(_version, PACKAGES)) + ".", ""]
    lines += ["| part | what | figure | value |", "|---|---|---|---|"]
    for part, rows in found.items():
        for what, figures in rows.items():
            lines += [f"| {part} | {what} | {figure} | {_show(value)} |" for figure, value in figures.items()]
    return "\n".join(lines) + "\n"


def _device() -> str:
    """Return the name of the GPU, asked in another process: this one must not hold memory of it."""
    program = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'a CPU')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def _run(part: str, sizes: Sequence[str], limit: int) -> dict[str, dict[str, Any]]:
    """Return the figures that a part wrote before it ended, and how it ended if not well."""
    print(f"{part}: at most {limit} s", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        command = [sys.executable, str(PART), part, "--rows", str(file), *sizes]
        try:  # whatever the part prints goes to standard error
            status = subprocess.run(command, stdout=sys.stderr, timeout=limit, check=False).returncode
            ended = {"failed": f"exit status {status}"}
        except subprocess.TimeoutExpired:
            status, ended = 1, {"failed": f"stopped after {limit} s"}
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows: dict[str, dict[str, Any]] = dict(map(json.loads, lines))
    if (status or not rows) and "-" not in rows:
        rows["-"] = ended
    return rows


def _show(value: Any) -> str:
    if value is None:
        return "not measured here"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
    return str(value).replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())

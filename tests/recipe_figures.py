"""Figures in the heads of the five systems' recipes and in docs/systems.md, by `kdtool check`: one source, one command.

`python tests/recipe_figures.py` writes them; `test_recipes.py` compares them. What runs on a GPU is estimated for one
of 80 GB, whichever this machine has; hours on others follow from their published speed. Nothing is fetched.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import kdtool
from kdtool._contract.run_info import GPUS

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ("code-craft", "starcoder2-mini-gpt", "claude-codellama", "smallcoder", "codellama-web")
COMMAND = "python tests/recipe_figures.py"
REFERENCE = "a100-80gb"
PRICES = {"l4": 0.70, "a100-80gb": 2.00, "h100": 3.00}
"""Dollars an hour: assumed, not quoted; what a reader's provider asks is to be put in their place."""
PRICED = "November 2026"
ON_CPU = 0.5e12 * 0.5
"""Operations a second of training on a CPU of 500 GFLOP/s."""
BEGIN, END = "# Memory and time by `kdtool check`", "# Time covers only training"
TABLE_BEGIN, TABLE_END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


class Figures(NamedTuple):
    """Bytes, and seconds of training on the reference GPU."""

    gpu: float
    host: float
    disk: float
    seconds: float

    def hours(self, gpu: str) -> float:
        """Return the hours of training on this GPU."""
        return self.seconds * GPUS[REFERENCE].half / GPUS[gpu].half / 3600


def figures(name: str) -> Figures:
    """Return what `kdtool check` says of a recipe, as if nothing were in the hub's cache."""
    known = huggingface_hub.try_to_load_from_cache
    huggingface_hub.try_to_load_from_cache = lambda *_, **__: None
    try:
        forecast = kdtool.check(ROOT / "recipes" / f"{name}.yaml", memory="1TB", gpu=REFERENCE)["forecast"]
    finally:
        huggingface_hub.try_to_load_from_cache = known
    peaks = forecast["device_memory"]["peak"], forecast["memory"]["peak"], forecast["disk_bytes"]
    return Figures(*peaks, forecast["seconds"])


def read_block(name: str) -> str:
    """Return the head's block of figures as it stands."""
    text = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    return text[text.index(BEGIN) : text.index("\n", text.index(END))]


def read(block: str) -> tuple[float, float, float, float]:
    """Return GB of the GPU, of main memory and of disk, and hours on the reference GPU, as a head says."""
    sizes = [float(found) for found in re.findall(r"([\d.]+) GB of (?:GPU|main|disk)", block.replace("\n# ", " "))]
    (hours,) = re.findall(rf"([\d.]+) hours on {REFERENCE}", block.replace("\n# ", " "))
    return (*sizes, float(hours))  # type: ignore[return-value]


def block(found: Figures) -> str:
    """Return the head's block of figures."""
    fitting = [gpu for gpu in PRICES if GPUS[gpu].memory >= found.gpu]
    times = [
        f"{format_hours(found, gpu)} hours on {gpu} (${format_price(found, gpu)} at ${PRICES[gpu]:.2f})"
        for gpu in fitting
    ]
    gpu, host, disk = (f"{size / 1e9:.1f}" for size in found[:3])
    lines = [
        f"{BEGIN} (written by `{COMMAND}`):",
        f"#   {gpu} GB of GPU memory, {host} GB of main memory, {disk} GB of disk;",
        *(f"#   {line}{';' if line != times[-1] else '.'}" for line in times),
        f"{END}, control included, at 35 % of the published speed; prices per hour are assumed ({PRICED}).",
    ]
    return "\n".join(lines)


def format_hours(found: Figures, gpu: str) -> str:
    """Write the hours on this GPU."""
    hours = found.hours(gpu)
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def format_price(found: Figures, gpu: str) -> str:
    """Write the dollars on this GPU."""
    dollars = found.hours(gpu) * PRICES[gpu]
    return f"{dollars:.0f}" if dollars >= 10 else f"{dollars:.2f}"


def row(name: str, found: Figures) -> str:
    """Return the line of the table in docs/systems.md."""
    fitting = [f"{gpu} {format_hours(found, gpu)} h, ${format_price(found, gpu)}" for gpu in PRICES]
    held = [text for gpu, text in zip(PRICES, fitting, strict=True) if GPUS[gpu].memory >= found.gpu]
    days = f"{found.seconds * 0.35 * GPUS[REFERENCE].half / ON_CPU / 86400:,.0f} days"
    sizes = f"{found.gpu / 1e9:.1f} GB | {found.host / 1e9:.1f} GB | {found.disk / 1e9:.1f} GB"
    return f"| `{name}` | {sizes} | {'; '.join(held)} | {days} |\n"


def main() -> None:
    """Write the figures of all systems."""
    rows = ""
    for name in SYSTEMS:
        path, found = ROOT / "recipes" / f"{name}.yaml", figures(name)
        path.write_text(
            path.read_text(encoding="utf-8").replace(read_block(name), block(found)), encoding="utf-8", newline="\n"
        )
        rows += row(name, found)
    page = ROOT / "docs" / "systems.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(TABLE_BEGIN)
    head = "| recipe | GPU | main memory | disk | training | on a CPU of 500 GFLOP/s |\n|---|---|---|---|---|---|\n"
    page.write_text(
        f"{before}{TABLE_BEGIN}{head}{rows}{TABLE_END}{rest.partition(TABLE_END)[2]}", "utf-8", newline="\n"
    )


if __name__ == "__main__":
    main()

"""The matrix products of a training step and nothing else, as a program of `lockstep`: no trainer can take less time.

    python benchmarks/products_program.py FOLDER

Shapes are those of the teacher and the student in the folder of `training_program.prepare`: linear layers and heads, at the
settings' batch, length and dtype. Attention's own products are left out. Each part's time, and the rate of one large product
(2048 cubed), go to `floors.json` in the folder, the least of all turns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import torch
from lockstep import Stopwatch
from torch import Tensor
from transformers import AutoConfig

Product = Callable[[], Tensor]


def main(work: Path) -> None:
    """Multiply until the driver has gone."""
    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    tokens, dtype = settings["batch"] * settings["length"], getattr(torch, settings["dtype"])
    labelled = settings["batch"] * settings["on_policy"]["tokens"] if "on_policy" in settings else tokens
    teacher, student = (AutoConfig.from_pretrained(folder) for folder in (settings["teacher"], work / "student"))
    parts: dict[str, list[tuple[int, Product]]] = {
        "teacher's layers": [(teacher.num_hidden_layers, one) for one in _layer(teacher, tokens, dtype, learns=False)],
        "teacher's head": [
            (1, one) for one in _linear(teacher.hidden_size, teacher.vocab_size, labelled, dtype, False)
        ],
        "student's layers": [(student.num_hidden_layers, one) for one in _layer(student, tokens, dtype, learns=True)],
        "student's head": [(1, one) for one in _linear(student.hidden_size, student.vocab_size, labelled, dtype, True)],
    }
    square = torch.randn(2048, 2048).to(dtype)
    least = dict.fromkeys([*parts, "2048 cubed"], float("inf"))
    watch = Stopwatch({"torch": torch.__version__})
    while True:
        for name, products in parts.items():
            start = perf_counter()
            for repeats, product in products:
                for _ in range(repeats):
                    product()
            least[name] = min(least[name], perf_counter() - start)
        start = perf_counter()
        square @ square
        least["2048 cubed"] = min(least["2048 cubed"], perf_counter() - start)
        floors = {**least, "GFLOP/s of 2048 cubed": 2 * 2048**3 / least["2048 cubed"] / 1e9}
        (work / "floors.json").write_text(json.dumps(floors), encoding="utf-8")
        watch.lap(None)


def _layer(config: AutoConfig, tokens: int, dtype: torch.dtype, *, learns: bool) -> Iterator[Product]:
    hidden, wide = config.hidden_size, config.intermediate_size
    keys = hidden // config.num_attention_heads * config.num_key_value_heads
    shapes = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    for inward, outward in [*shapes, (hidden, wide), (hidden, wide), (wide, hidden)]:
        yield from _linear(inward, outward, tokens, dtype, learns)


def _linear(inward: int, outward: int, tokens: int, dtype: torch.dtype, learns: bool) -> Iterator[Product]:
    """Yield a linear layer's product, and those of its two gradients where it learns."""
    x, weight = torch.randn(tokens, inward).to(dtype), torch.randn(outward, inward).to(dtype)
    yield lambda: x @ weight.T
    if learns:
        gradient = torch.randn(tokens, outward).to(dtype)
        yield lambda: gradient @ weight
        yield lambda: gradient.T @ x


if __name__ == "__main__":
    main(Path(sys.argv[1]))

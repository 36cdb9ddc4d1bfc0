"""The generation of an on-policy step and nothing else, as a program of `lockstep`.

    python benchmarks/generation_program.py FOLDER

The student continues the first half of a batch of rows, as the trainer `standard` has it do with the settings `on_policy`.
The folder is `training_program.prepare`'s.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path

import torch
from kdtool_transformers import open_model
from lockstep import Stopwatch


def main(work: Path) -> None:
    """Generate until the driver has gone."""
    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    rows = json.loads((work / "rows.json").read_text(encoding="utf-8"))
    batch, tokens, dtype = settings["batch"], settings["on_policy"]["tokens"], getattr(torch, settings["dtype"])
    student = open_model(work / "student", dtype=torch.float32)
    watch = Stopwatch({"torch": torch.__version__})
    for step in count():
        at = step * batch % (len(rows) - batch + 1)
        prompts = [row[: len(row) // 2] for row in rows[at : at + batch]]
        seeds = [step * batch + number for number in range(batch)]
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            student.generate(prompts, [tokens] * batch, 1.0, seeds, 1.0)
        watch.lap(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

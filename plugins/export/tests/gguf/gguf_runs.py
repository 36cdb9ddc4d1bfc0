"""Runs with text to calibrate and measure on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
from kdtool_testing import make_run


def text_examples() -> list[kdtool.Example]:
    """Return training text, and other text that is held out."""
    texts = {"train": "def f{n}(x):\n    return x + {n}\n", "test": "class C{n}:\n    value = {n}\n"}
    return [
        kdtool.Example(f"{split}-{n}", kdtool.Text(text.format(n=n)), split=split)  # type: ignore[arg-type]
        for split, text in texts.items()
        for n in range(40 if split == "train" else 20)
    ]


def run_in(folder: Path, **fields: Any) -> kdtool.RunInfo:
    """Return a run with that text."""
    folder.mkdir(parents=True, exist_ok=True)
    return make_run(folder, examples=text_examples(), **fields)

"""The run's text as windows of tokens: some to weigh columns by, and others to compare a file with the student on."""

from __future__ import annotations

from itertools import islice

import kdtool
from kdtool_measuring import held_out
from kdtool_transformers import TransformersTokenizer

__all__ = ["WINDOW", "windows_of"]

WINDOW = 512
"""Tokens of a window at most, with the tokens before its text."""
_CHARACTERS = 8000
_SAMPLE = (
    'def load(path, mode="rb"):\n    """Größe von 日本語."""\n\treturn [x ** 2 for x in range(1234567)]\n\n\n'
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
    "        self.items.append(item)\n        return len(self.items)\n\n\nfor i, line in enumerate(open('a.txt')):\n"
    "    if not line.strip():\n        continue\n    print(i, line.split(',')[0], sep=': ')\n"
)
"""Text to compare on if the run has none."""


def windows_of(
    run: kdtool.RunInfo, tokenizer: TransformersTokenizer, context: int, *, calibrate: int, measure: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return windows of training text (`calibrate` tokens; none if the run has no such text) and of other, held-out text.

    A window fits into the model's `context` (0: not known). Held-out text is that of the split test, else validation, else a
    sample; no document of it is calibrated on.
    """
    held = _measured_texts(run, measure)
    trained = held_out(run, "train", most=_most(calibrate), characters=_CHARACTERS) if calibrate else []
    texts = [document.text for document in trained if document.text not in {*held}]
    size = min(WINDOW, context or WINDOW)
    return _windows(texts, tokenizer, size, calibrate), _windows(held, tokenizer, size, measure)


def _measured_texts(run: kdtool.RunInfo, tokens: int) -> list[str]:
    for split in ("test", "validation"):
        documents = held_out(run, split, most=_most(tokens), characters=_CHARACTERS)
        if documents:
            return [document.text for document in documents]
    return [_SAMPLE]


def _most(tokens: int) -> int:
    """Return a number of documents that contains `tokens` tokens, if a document has a quarter of a window."""
    return max(16, tokens // (WINDOW // 4))


def _windows(texts: list[str], tokenizer: TransformersTokenizer, size: int, tokens: int) -> list[list[int]]:
    """Cut each text into windows of `size` that begin as a document does, until there are `tokens`."""
    context, windows = tokenizer.scoring_context, []
    size -= len(context)
    for text in texts:
        ids = tokenizer.encode(text)
        parts = (ids[start : start + size] for start in range(0, len(ids), size))
        windows += [[*context, *part] for part in islice(parts, 2)]
    total = 0
    for number, window in enumerate(windows):
        total += len(window)
        if total >= tokens:
            return windows[: number + 1]
    return windows

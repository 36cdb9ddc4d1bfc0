"""A graph run by ONNX Runtime in Python, as the page runs it: for machines without a browser."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from kdtool_exporter_web._browser import Ran

if TYPE_CHECKING:
    from kdtool_exporter_web._graph import Shape

__all__ = ["run_in_python"]


def run_in_python(folder: Path, dtype: str, shape: Shape, windows: Sequence[Sequence[int]], steps: int) -> Ran:
    """Return the logits of all windows; a window's last `steps` tokens are read one by one, the others at once."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(folder / "onnx" / f"model_{dtype}.onnx", options, providers=["CPUExecutionProvider"])
    rows: list[NDArray[np.float32]] = []
    first = later = 0.0
    for window in windows:
        prefill = len(window) - steps
        begun = time.monotonic()
        logits, cache = _read(session, window[:prefill], 0, _empty(shape, dtype))
        first, begun = max(first, time.monotonic() - begun), time.monotonic()
        rows.append(logits)
        for at in range(prefill, len(window)):
            logits, cache = _read(session, window[at : at + 1], at, cache)
            rows.append(logits)
        later += time.monotonic() - begun
    return Ran(np.concatenate(rows), first, later, steps * len(windows))


def _empty(shape: Shape, dtype: str) -> list[NDArray[np.floating]]:
    kind = np.float16 if dtype == "q4f16" else np.float32
    return [np.zeros((1, shape.kv_heads, 0, shape.head_size), kind) for _ in range(2 * shape.layers)]


def _read(
    session: ort.InferenceSession, ids: Sequence[int], cached: int, cache: Sequence[NDArray[np.floating]]
) -> tuple[NDArray[np.float32], list[NDArray[np.floating]]]:
    names = [each.name for each in session.get_inputs() if each.name.startswith("past_key_values.")]
    feed = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, cached + len(ids)), np.int64),
        "num_logits_to_keep": np.array([0], np.int64),
        **dict(zip(names, cache, strict=True)),
    }
    logits, *caches = session.run(None, feed)
    return logits[0], caches

"""Distance of each file from the student: in a headless Chromium on both backends, else by ONNX Runtime in Python.

A graph must compute what the student with the file's rounded weights computes, up to the order of sums.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import kdtool
import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdtool_export.shared import SAMPLE, deviation_of, measured_texts
from kdtool_export.web.browser import Ran, find_chromium, run_in_browser
from kdtool_export.web.graph import bits_of, from_blocks, to_blocks

if TYPE_CHECKING:
    from kdtool_transformers import TransformersModel, TransformersTokenizer

    from kdtool_export.web.graph import Shape
    from kdtool_export.web.settings import WebConfig

WINDOW = 86
"""Tokens of a window, unless the student reads fewer: more than the 64 that one tile of WebGPU's attention covers."""
STEPS = {"python": 8, "wasm": 8, "webgpu": 1}
"""Last tokens of a window, which are read one by one, as the page reads what it wrote. SwiftShader computes one token in the
time of 31."""
POSITIONS = 256
"""Tokens of held-out text on which each file is compared with the student, on each backend."""
_SECONDS = 900.0
"""Time in which the browser must open a file and read a first window of text, or read one more."""
_LARGEST_DIVERGENCE = {"int8": 0.05, "q4": 1.0, "q4f16": 1.0}
"""Largest mean KL divergence in nats by type. SmolLM2-135M with rounded weights has 0.0017 (int8) and 0.41 (q4)."""
_EXACT = {"int8": 1e-3, "q4": 1e-3, "q4f16": 0.01}
"""Largest root mean square deviation of logits from those of the student with the file's weights, in their standard
deviations. A wrong cache moves those of a small random model by more, although its probabilities hardly change."""


class Parity(NamedTuple):
    """A file on a backend: KL divergence from the student in nats, share of equal most likely tokens, and speed.

    `ran` is "wasm" or "webgpu", or "python" where no browser was found. `tokens` is 0 if nothing was measured. `first` is
    the longest time in seconds to read the first tokens of a window, `rate` the tokens per second after them.
    """

    dtype: str
    ran: str
    tokens: int = 0
    divergence: float = 0.0
    agreement: float = 0.0
    first: float = 0.0
    rate: float = 0.0

    def __str__(self) -> str:
        where = {"wasm": "WASM in Chromium", "webgpu": "WebGPU in Chromium (SwiftShader)"}.get(self.ran, "Python")
        if not self.tokens:
            return f"{self.dtype}, {where}: not measured, since the browser offers no adapter for it"
        unproven = "" if self.ran != "python" else "; NOT measured in a browser"
        return (
            f"{self.dtype}, {where}: KL divergence {self.divergence:.2g} nats, same most likely token {self.agreement:.1%}, "
            f"on {self.tokens} tokens; first token {1000 * self.first:.0f} ms, {self.rate:.2g} tokens/s{unproven}"
        )


def measure(
    run: kdtool.RunInfo, student: TransformersModel, shape: Shape, folder: Path, config: WebConfig
) -> list[Parity]:
    """Compare every file with the student, on every backend.

    Raises:
        PluginError: the page splits text differently, or a file is further from the student than its type explains.
    """
    texts = list(dict.fromkeys([*measured_texts(run, 16, 2000), SAMPLE]))
    windows = _windows(texts, student.tokenizer, min(WINDOW, shape.context), POSITIONS)
    expected = _student_logits(student, windows)
    chromium = find_chromium() if config.browser == "auto" else None if config.browser == "none" else config.browser
    if chromium is None:
        run.say("web: no Chromium is used, so the page was NOT measured in a browser, only the graphs in Python")
        measured: Mapping[tuple[str, str], Ran] = {
            (dtype, "python"): run_in_python(folder, dtype, shape, windows, STEPS["python"]) for dtype in config.dtypes
        }
        cases = list(measured)
    else:
        cases = [(dtype, backend) for dtype in config.dtypes for backend in ("wasm", "webgpu")]
        shown = [text[:2000] for text in texts]
        tokens, measured = run_in_browser(
            chromium, folder, windows, STEPS, shown, cases, _SECONDS,
            lambda read: run.hook.kdtool_progress(run, read, None),
        )  # fmt: skip
        _require_same_tokens(shown, tokens, student.tokenizer)
    parities = [_judge(case, measured, expected) for case in cases]
    for dtype in config.dtypes:
        with rounded_weights(student.model, dtype):
            _require_exact(dtype, measured, _student_logits(student, windows))
    return parities


def compare(expected: Tensor, logits: Tensor) -> tuple[float, float]:
    """Return the mean KL divergence of logits [positions, vocabulary] from `expected`, and the share of equal maxima."""
    p, q = expected.double().log_softmax(-1), logits.double().log_softmax(-1)
    divergence = float((p.exp() * (p - q)).sum(-1).mean())
    return divergence, float((expected.argmax(-1) == logits.argmax(-1)).double().mean())


def _judge(case: tuple[str, str], measured: Mapping[tuple[str, str], Ran], expected: Tensor) -> Parity:
    if case not in measured:
        return Parity(*case)
    ran = measured[case]
    logits = torch.from_numpy(np.array(ran.logits))[:, : expected.shape[1]]
    parity = Parity(*case, len(expected), *compare(expected, logits), ran.first, ran.steps / ran.later)
    largest = _LARGEST_DIVERGENCE[parity.dtype]
    if not parity.divergence <= largest:
        raise kdtool.PluginError(
            f"web: a file differs from the student: {parity}; expected a mean divergence of {largest:g} at most: export "
            "int8"
        )
    return parity


def _require_exact(dtype: str, measured: Mapping[tuple[str, str], Ran], expected: Tensor) -> None:
    """Refuse a file whose graph computes something else than the student does with the same rounded weights."""
    for backend in [backend for kind, backend in measured if kind == dtype]:
        logits = torch.from_numpy(np.array(measured[dtype, backend].logits))[:, : expected.shape[1]]
        deviation = deviation_of(logits, expected)
        if not deviation <= _EXACT[dtype]:
            raise kdtool.PluginError(
                f"web: the graph in {dtype} computes something else than the student with its weights, in {backend}: logits "
                f"deviate by {deviation:.2g} standard deviations; expected {_EXACT[dtype]:g} at most: export onnx or gguf"
            )


def _windows(texts: Sequence[str], tokenizer: TransformersTokenizer, size: int, positions: int) -> list[list[int]]:
    """Return windows of `size` tokens that begin as a text does, evenly spread over all texts, with enough positions."""
    context = list(tokenizer.scoring_context)
    length = size - len(context)
    encoded = [list(tokenizer.encode(text)) for text in texts]
    places = [(ids, start) for ids in encoded for start in range(len(ids) - length + 1)]
    count = -(-positions // size)
    chosen = (places[number * len(places) // count] for number in range(count))
    return [[*context, *ids[start : start + length]] for ids, start in chosen]


def _student_logits(student: TransformersModel, windows: Sequence[Sequence[int]]) -> Tensor:
    with torch.no_grad():
        rows = [student.model(input_ids=torch.tensor([window])).logits[0].float() for window in windows]
    return torch.cat(rows)[:, : student.tokenizer.vocabulary]


def _require_same_tokens(
    texts: Sequence[str], tokens: Sequence[Sequence[int]], tokenizer: TransformersTokenizer
) -> None:
    for text, split in zip(texts, tokens, strict=True):
        expected = tokenizer.encode(text)
        if list(split) != list(expected):
            at = next((n for n, pair in enumerate(zip(split, expected, strict=False)) if pair[0] != pair[1]), 0)
            start = tokenizer.decode(list(expected[max(0, at - 5) : at + 5]))
            raise kdtool.PluginError(
                f"web: the page splits text differently from the student's tokenizer, near {start!r}; expected the same "
                "tokens: export gguf or onnx"
            )


@contextmanager
def rounded_weights(model: Any, dtype: str) -> Iterator[None]:
    """Give a model of transformers the weights of a file of this type, until the end of the block."""
    matrices = {name: weight for name, weight in model.named_parameters() if weight.ndim == 2}
    kept = {name: weight.data for name, weight in matrices.items()}
    try:
        for name, weight in matrices.items():
            bits = bits_of(name, dtype)
            blocks = to_blocks(kept[name].numpy(), bits)
            weight.data = torch.from_numpy(from_blocks(blocks, bits, weight.shape[1]))
        yield
    finally:
        for name, weight in matrices.items():
            weight.data = kept[name]


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
        logits, cache = _read_tokens(session, window[:prefill], 0, _empty_cache(shape, dtype))
        first, begun = max(first, time.monotonic() - begun), time.monotonic()
        rows.append(logits)
        for at in range(prefill, len(window)):
            logits, cache = _read_tokens(session, window[at : at + 1], at, cache)
            rows.append(logits)
        later += time.monotonic() - begun
    return Ran(np.concatenate(rows), first, later, steps * len(windows))


def _empty_cache(shape: Shape, dtype: str) -> list[NDArray[np.floating]]:
    kind = np.float16 if dtype == "q4f16" else np.float32
    return [np.zeros((1, shape.kv_heads, 0, shape.head_size), kind) for _ in range(2 * shape.layers)]


def _read_tokens(
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

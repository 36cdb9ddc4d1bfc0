"""Checks that llama.cpp reproduces the student: before it is built, before training, and on the exported file.

Before the student is built, its outline shows whether llama.cpp supports it. Before training, llama.cpp opens a small
stand-in with the student's tokenizer. The exported file is compared with the student by logits on the same tokens, as
llama-perplexity compares models.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from functools import partial
from math import exp, isnan, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import kdtool
import torch
from kdtool_torch import exact_head, exact_logits
from kdtool_transformers import AbsentTokenizer, TransformersModel, TransformersTokenizer, without_weights
from torch import Tensor

from kdtool_export.gguf.calibration import WINDOW
from kdtool_export.gguf.decoder import Decoder
from kdtool_export.gguf.files import names_in_file, require_architecture, require_gguf, write_gguf
from kdtool_export.gguf.quantisation import ModelShape, stored_bytes, tensor_type
from kdtool_export.gguf.tokenizers import find_split_difference, name_of_splitting

if TYPE_CHECKING:
    from kdtool_export.gguf.calibration import Prepared
    from kdtool_export.gguf.settings import GGUFConfig


def open_questions(ahead: kdtool.RunForecast) -> Iterator[str]:
    """Yield the questions that only the downloaded tokenizer can answer.

    Raises:
        UsageError: llama.cpp does not support the student, or its tokenizer if that is on this machine.
    """
    outlines = [phase.outline for phase in ahead.phases if phase.arm == "student"]
    outline = outlines[-1] if outlines else None
    if not isinstance(outline, TransformersModel):
        yield "whether the student can be written as GGUF cannot be known before it is built"
        return
    tokenizer = outline.tokenizer
    if not isinstance(tokenizer, AbsentTokenizer):
        require_gguf(outline.model.config, tokenizer)
        name_of_splitting(tokenizer)
        return
    require_architecture(outline.model.config)
    yield "whether llama.cpp follows its tokenizer in everything cannot be known before that is downloaded"


def estimated_bytes(ahead: kdtool.RunForecast, mix: str) -> int:
    """Return the size of the student's file, without its vocabulary; of an unknown shape, at one byte for each weight."""
    outlines = [phase.outline for phase in ahead.phases if phase.arm == "student"]
    outline = outlines[-1] if outlines else None
    if not isinstance(outline, TransformersModel):
        return ahead.models[ahead.student].parameters
    config = outline.model.config
    shape, name_in_file = ModelShape.of(config), names_in_file(config)
    sizes = {
        f"{name_in_file(name.removesuffix('.weight'))}.weight": tuple(weight.shape)
        for name, weight in without_weights(config).named_parameters()  # the outline may have adapters
    }
    return sum(stored_bytes(tensor_type(mix, name, size, shape, weighted=True), size) for name, size in sizes.items())


def require_readable(config: Any, tokenizer: TransformersTokenizer) -> None:
    """Have llama.cpp open a file with the student's tokenizer, and one layer of zeros with one head.

    Raises:
        UsageError: llama.cpp does not open it, or splits text differently.
    """
    model = without_weights(_narrow(config)).to_empty(device="cpu")
    for weight in model.parameters():
        weight.data.zero_()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = write_gguf(TransformersModel(model, tokenizer), Path(folder, "narrow.gguf"), dtype="f16")
        with Decoder(file, context=256, threads=1) as decoder:
            text = find_split_difference(tokenizer, partial(decoder.tokenize, marked=True))
    if text is not None:
        raise kdtool.UsageError(
            f"gguf: llama.cpp would split {text!r} differently from the student's tokenizer; export safetensors, or use a "
            "student with another tokenizer"
        )


def _narrow(config: Any) -> Any:
    """Return a configuration of the class with one head of the same size in one layer."""
    narrow = copy.deepcopy(config)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    narrow.update({"num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": size, "num_hidden_layers": 1})
    narrow.update({"layer_types": ["full_attention"], "intermediate_size": 32, "n_inner": 32})
    return narrow


def require_same(student: TransformersModel, file: Path, prepared: Prepared, config: GGUFConfig) -> Parity:
    """Compare tokens of a few texts, and logits on held-out text, with the student's; return how far the logits are.

    Raises:
        PluginError: tokens differ, or logits by more than the type explains.
    """
    context = min(WINDOW, student.facts.context or WINDOW)
    with Decoder(file, context=context) as decoder:
        text = find_split_difference(student.tokenizer, partial(decoder.tokenize, marked=True))
        if text is not None:
            raise kdtool.PluginError(
                f"gguf: llama.cpp splits {text!r} differently from the student's tokenizer; export safetensors"
            )
        parity = compare(student, prepared.windows, prepared.states, decoder)
    require_parity(parity, config.type, file)
    return parity


_LARGEST_DIVERGENCE = {
    "f32": 0.03, "f16": 0.03, "bf16": 0.05, "q8_0": 0.05, "q6_k": 0.1, "q5_k_m": 0.3, "q4_k_m": 0.5, "iq4_xs": 0.7,
    "q4_0": 1.0, "q3_k_m": 1.5, "q2_k": 4.0,
}  # fmt: skip
"""Largest mean KL divergence in nats, by type; README.md has the measurements they follow from."""
_ROWS_AT_ONCE = 16
"""Rows that are compared at once: their logits and the values computed from them fit into the processor's cache."""


class Parity(NamedTuple):
    """KL divergence of a file from the student in nats (mean, 95 % and 99 %), over tokens of held-out text.

    `margin` is half the mean's 95 % interval over windows of text; NaN if there is one. `agreement` is the share of tokens
    with the same most likely next one; the perplexities are of the same tokens.
    """

    tokens: int
    mean: float
    margin: float
    p95: float
    p99: float
    agreement: float
    perplexity: float
    student: float
    seconds: float

    def __str__(self) -> str:
        margin = "" if isnan(self.margin) else f" ± {self.margin:.4f}"
        return (
            f"KL divergence {self.mean:.4f}{margin} nats (95 %: {self.p95:.4f}, 99 %: {self.p99:.4f}), "
            f"same most likely token {self.agreement:.1%}, perplexity {self.perplexity:.3f} (student {self.student:.3f}), "
            f"on {self.tokens:,} tokens of held-out text"
        )


def compare(
    student: TransformersModel, windows: Sequence[Sequence[int]], states: Sequence[Tensor], decoder: Decoder
) -> Parity:
    """Compare a file's logits with the student's.

    Args:
        student: the student in float32; only its head is used.
        windows: tokens, each window read by itself.
        states: the student's final states of each window.
        decoder: the opened file.
    """
    begun, head = time.monotonic(), exact_head(student.head)
    rows: list[Tensor] = []
    for window, state in zip(windows, states, strict=True):
        done = 0
        for chunk in decoder.logits(window[:-1]):
            end = done + len(chunk)
            logits = exact_logits(head, state[done:end])
            rows.append(_compare_rows(logits, torch.from_numpy(chunk), torch.tensor(window[done + 1 : end + 1])))
            done = end
    divergence, same, of_student, of_file = torch.cat(rows, 1).double()
    p95, p99 = divergence.quantile(torch.tensor([0.95, 0.99], dtype=torch.double)).tolist()
    return Parity(
        tokens=divergence.numel(),
        mean=float(divergence.mean()),
        margin=_margin_of_mean([window[0].double() for window in rows]),
        p95=p95,
        p99=p99,
        agreement=float(same.mean()),
        perplexity=exp(-float(of_file.mean())),
        student=exp(-float(of_student.mean())),
        seconds=time.monotonic() - begun,
    )


def require_parity(parity: Parity, mix: str, file: Path) -> None:
    """Refuse a file that is further from the student than its type explains.

    Raises:
        PluginError: the mean divergence is above the type's limit, or not a number.
    """
    if not parity.mean <= _LARGEST_DIVERGENCE[mix]:
        raise kdtool.PluginError(
            f"gguf: {file.name} differs from the student: {parity}; expected a mean of {_LARGEST_DIVERGENCE[mix]} at most "
            f"in {mix}. "
            "Export with type: f32 to see whether the type or the file is at fault"
        )


def _margin_of_mean(windows: Sequence[Tensor]) -> float:
    """Return 1.96 standard errors of the mean over all values, by leaving out one window at a time (jackknife)."""
    sums = torch.stack([window.sum() for window in windows])
    counts = torch.tensor([len(window) for window in windows])
    means = (sums.sum() - sums) / (counts.sum() - counts)
    return 1.96 * sqrt((len(windows) - 1) * float(means.var(correction=0)))


def _compare_rows(student: Tensor, file: Tensor, targets: Tensor) -> Tensor:
    """Return [4, N]: the divergence of each row, 1 if the maxima are equal, and both log-likelihoods of the targets.

    Both logits are overwritten.
    """
    blocks = zip(*(torch.split(each, _ROWS_AT_ONCE) for each in (student, file, targets)), strict=True)
    return torch.cat([_compare_block(*block) for block in blocks], 1)


def _compare_block(student: Tensor, file: Tensor, targets: Tensor) -> Tensor:
    """Compare a few rows, with p and q the probabilities of `student` and `file`, and a and b their logits.

    KL(p, q) = sum p (log p - log q) = sum p (a - b) - log sum exp a + log sum exp b.
    """
    highest, likeliest = student.max(1, keepdim=True)
    same = likeliest.squeeze(1) == file.argmax(1)
    student_target, file_target = (logits.gather(1, targets[:, None]).squeeze(1) for logits in (student, file))
    file_total = file.logsumexp(1)
    file = file[:, : student.shape[1]]  # beyond are rows that pad the vocabulary
    gaps = torch.sub(student, file, out=file)
    weights = student.sub_(highest).exp_()
    total = weights.sum(1)
    student_total = highest.squeeze(1) + total.log()
    divergence = torch.linalg.vecdot(weights, gaps) / total - student_total + file_total
    return torch.stack(
        [divergence.clamp(min=0), same.float(), student_target - student_total, file_target - file_total]
    )

"""Logits and log-likelihoods: their precision, in chunks, and of student and teacher at the same positions.

Bfloat16 keeps 8 bits of a logit: a probability computed from rounded ones is off by some per cent. So numbers that are
reported come from logits in float32, regardless of the model's precision. Losses and signals get products of
half-precision operands, which CUDA adds up in float32 and can return unrounded. Logits of many positions never exist
all at once, neither forward nor for the gradient. `eval_mode` and `autocast_to` are the modes of forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch.batch import select_at_labels

if TYPE_CHECKING:
    import torch
    from torch import Tensor, device, dtype, nn

LOWEST = -1e30
"""Stands for log 0: far below any log-probability, and 0 · LOWEST is 0 where 0 · (−∞) is not a number."""


def at_least_float32(values: Tensor) -> Tensor:
    """Return float32 and float64 as they are, all else as float32."""
    return values if values.dtype.itemsize >= 4 else values.float()


def require_finite(values: Tensor | kdtool.Signal, model: Any) -> None:
    """Refuse a model by its greatest logits, log-likelihoods or signal.

    Raises:
        KdtoolError: they are not finite.
    """
    if not bool(is_finite(values)):
        raise not_finite(model)


def is_finite(values: Tensor | kdtool.Signal) -> Tensor:
    """Return whether all numbers are finite, 0-d bool; of logits that are not multiplied out, those at one position."""
    import torch

    if isinstance(values, torch.Tensor):
        return values.isfinite().all()
    parts = [*values.hidden.values(), *values.attentions.values(), *chain.from_iterable(values.projections.values())]
    parts += [values.chosen.log_probabilities] if values.chosen is not None else []
    parts += [values.sparse.weights] if values.sparse is not None else []
    with torch.no_grad():
        if (lazy := values.lazy) is not None:
            parts += [lazy.hidden, lazy.head.logits(lazy.hidden[:1])]
        return torch.stack([part.isfinite().all() for part in parts]).all() if parts else torch.tensor(True)


def not_finite(model: Any) -> kdtool.KdtoolError:
    """Return the error for a model, or its name, that computes NaN or infinity."""
    name = model if isinstance(model, str) else getattr(model, "name_or_path", "") or type(model).__name__
    return kdtool.KdtoolError(
        f"{name} computes NaN or infinity; expected finite logits. Set dtype: float32 if it is another one (float16 ends "
        "at 65,504). Otherwise its weights, adapter or config.json are damaged, or its training diverged: fetch it again, "
        "or train it at a lower learning_rate"
    )


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(logits / T) over the last dimension, in float32 or better, at least LOWEST."""
    return (at_least_float32(logits) / temperature).log_softmax(-1).clamp(min=LOWEST)


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log softmax(z)_y for each position, at most 0.

    Args:
        logits: [C, V], any floating type; computed in float32 or better.
        labels: [C] int64, each in 0 … V − 1.

    Returns:
        [C], in nats.
    """
    logits = at_least_float32(logits)
    return logits.gather(-1, labels[:, None])[:, 0] - logits.logsumexp(-1)


def product_dtype(weight: Tensor) -> dtype:
    """Return the dtype in which a product with `weight` is computed: autocast's if that is on, else the weight's."""
    import torch

    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def returns_float32(device: device, dtype: dtype) -> bool:
    """Return whether products of half-precision operands are available in float32, unrounded."""
    import torch

    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)


def product_in_float32(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a · b of half-precision operands in float32; only where `returns_float32` is True."""
    import torch

    if out is None:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


def logits_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a · b for logits: in float32 if the device returns that, else in the operands' dtype; in `out` if given."""
    import torch

    return product_in_float32(a, b, out) if returns_float32(a.device, a.dtype) else torch.mm(a, b, out=out)


def unrounded_logits(head: kdtool.Head, states: Tensor) -> Tensor:
    """Return logits [N, V] of final states [N, H] by the head's own weight, without its gradient.

    In float32 if the device returns that from the weight's dtype, else in that dtype.
    """
    weight = head.weight.detach()[: head.vocabulary]
    products = logits_product(states.to(weight.dtype), weight.t())
    return scale_and_cap(head, products if head.bias is None else products + head.bias.detach()[: head.vocabulary])


def scale_and_cap(head: kdtool.Head, products: Tensor) -> Tensor:
    """Return the head's logits of h · weightᵀ + bias."""
    logits = products if head.scale == 1.0 else products * head.scale
    return logits if head.soft_cap is None else head.soft_cap * (logits / head.soft_cap).tanh()


def exact_head(head: kdtool.Head) -> kdtool.Head:
    """Return the head in float32, without gradient and padding; it shares its weight with one that is float32 already."""
    bias = None if head.bias is None else head.bias.detach()[: head.vocabulary].float()
    return replace(head, weight=head.weight.detach()[: head.vocabulary].float(), bias=bias)


def exact_logits(head: kdtool.Head, states: Tensor) -> Tensor:
    """Return logits [N, V] of final states [N, H], projected in float32 also under autocast, without the head's gradient.

    Call it on chunks, with an `exact_head`: any other head is copied to float32 in each call.

    Bfloat16 keeps 8 bits of a logit: rounded to it, a log-likelihood is off by some hundredths of a nat for each token.
    """
    import torch

    with torch.autocast(states.device.type, enabled=False):
        return exact_head(head).logits(states)


_LEAST, _MOST = 2**23, 2**27
"""Logits of one chunk: 32 MiB in float32 suit the caches of a CPU, and 512 MiB keep any GPU busy."""
_SHARE = 16
"""Part of a GPU's memory that a loss may take: it has some of these alive at once, about ten while it sorts one."""


def elements_at_once(device: torch.device) -> int:
    """Return how many logits, or numbers of their kind, a chunk should have on this device."""
    import torch

    if device.type != "cuda":
        return _LEAST
    memory: int = torch.cuda.get_device_properties(device).total_memory
    return min(max(memory // (_SHARE * 10 * 4), _LEAST), _MOST)


def in_chunks(
    values: Callable[[slice], Tensor], count: int, vocabulary: int, device: torch.device | None = None
) -> Tensor:
    """Return `values` of positions 0 to `count`, [count], for one slice of them after the other.

    A slice has as many positions as suit `device`, where they are computed; None is the CPU.

    Nothing is kept of a slice but its values: backward computes it again. `values` is a plain function without chance. It is
    called at least once, for no position, so that all that learns has a gradient on every process.
    """
    import torch

    size = max(1, elements_at_once(device or torch.device("cpu")) // vocabulary)
    parts = [slice(start, min(start + size, count)) for start in range(0, count, size)] or [slice(0, 0)]
    return torch.cat([_again(values, part) for part in parts])


def _again(values: Callable[[slice], Tensor], part: slice) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    recomputed: Tensor = checkpoint(values, part, use_reentrant=False, preserve_rng_state=False)
    return recomputed


@dataclass(frozen=True, eq=False)
class Side:
    """One model at the N labelled positions of its batch: `states` [N, H], `labels` [N]."""

    states: Tensor
    labels: Tensor
    head: kdtool.Head

    def logits(self, numbers: Tensor) -> Tensor:
        """Return logits [C, V] at these of the labelled positions."""
        return self.head.logits(self.states[numbers])

    def likelihoods(self, numbers: Tensor | None = None) -> Tensor:
        """Return the log-likelihoods of the labels at these of the labelled positions, in nats; None: at all, [N]."""
        states, labels = (self.states, self.labels) if numbers is None else (self.states[numbers], self.labels[numbers])

        def of_tokens(part: slice) -> Tensor:
            return log_likelihood(self.head.logits(states[part]), labels[part])

        return in_chunks(of_tokens, len(labels), self.head.vocabulary, states.device)


def both_sides(view: kdtool.StepView, loss: str) -> tuple[Side, Side]:
    """Return student and teacher, the latter without gradient, as a view has them; `loss` is named in errors.

    Raises:
        PluginError: the trainer or the teacher left out what the contract lets a loss expect.
    """
    if view.head is None:
        raise kdtool.PluginError(
            f"{loss} compares logits, but this trainer passes sequence losses no head of the student (StepView.head); use "
            "trainer: standard, or a loss that needs no logits"
        )
    if view.teacher is None or view.teacher.lazy is None:
        raise kdtool.PluginError(f"{loss} compares with a teacher's logits, and its signal contains none")
    other, lazy = view.teacher_batch or view.batch, view.teacher.lazy
    student = Side(view.student.last, select_at_labels(view.batch.labels, view.batch), view.head)
    teacher = Side(lazy.hidden.detach(), select_at_labels(other.labels, other), detach_head(lazy.head))
    return student, teacher


def detach_head(head: kdtool.Head) -> kdtool.Head:
    """Return the head without gradient for weight and bias."""
    learns = head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
    if not learns:
        return head  # itself: a trainer's head may keep its cast weight
    return replace(head, weight=head.weight.detach(), bias=None if head.bias is None else head.bias.detach())


_ROWS = 512
"""Positions whose logits exist at once."""


def chosen_tokens(lazy: kdtool.LazyLogits, want: kdtool.SignalRequest) -> kdtool.ChosenTokens:
    """Return the signal "chosen": log softmax(logits / T) at `want.chosen`, projected in float32, without gradient.

    Args:
        lazy: final states [N, H] and their head.
        want: `chosen` [N, K] on the device of the states, -1 pads; `temperature` is T.

    Returns:
        The same ids, with log-probabilities [N, K], 0 at padding.

    Raises:
        PluginError: the request does not name tokens for each of the N positions.
    """
    import torch

    ids, states = want.chosen, lazy.hidden
    if ids is None or len(ids) != len(states):
        raise kdtool.PluginError(
            f'the signal "chosen" needs one row of token ids for each of {len(states)} labels; pass '
            "SignalRequest(chosen=ids) with ids [N, K]"
        )
    head, result = exact_head(lazy.head), torch.zeros(ids.shape, dtype=torch.float32, device=states.device)
    with torch.no_grad():
        for start in range(0, len(states), _ROWS):
            part = slice(start, start + _ROWS)
            logs = (exact_logits(head, states[part]) / want.temperature).log_softmax(-1)
            result[part] = logs.gather(-1, ids[part].clamp(min=0).long()).masked_fill(ids[part] < 0, 0.0)
    return kdtool.ChosenTokens(ids, result, want.temperature)


def autocast_to(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Return autocast to the dtype of products; it does nothing in float32."""
    import torch

    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run without dropout and gradients; afterwards each module is in the mode it was in.

    Not inference_mode: what a model keeps of a pass, such as its rotary frequencies, must serve in training too.
    """
    import torch

    training = [each for each in module.modules() if each.training]  # few or none: setting a mode is slow
    for each in training:
        each.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for each in training:
            each.training = True

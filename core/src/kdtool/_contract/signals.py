"""Signals that a teacher returns for a batch, and the outputs of a model.

Notation: V true vocabulary, H width, B rows, L row length, N positions that carry a label (row-major over [B, L]), C
positions of one loss call, K teacher tokens kept per position.

A signal is compared with the request at every call of `kdtool_signal`, also by a runtime of the teacher itself: a wrong one
would fail later, in a loss or an evaluator that is not to blame.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from kdtool._contract.data import Batch
from kdtool._errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor

SignalKind = Literal["logits", "sampled", "top-k", "chosen", "hidden", "attentions", "projections", "text"]
"""A kind of signal: full logits, sampled tokens, top-k tokens, tokens that the student chose, hidden states, attention maps,
projections (queries, keys and values), text answers. Hidden states, maps and projections belong to layers; a loss that
needs them receives the same from the student."""
Needs = SignalKind | tuple[SignalKind | frozenset[SignalKind], ...]
"""Required signals of a teacher: one kind, or alternatives, best first; a frozenset holds kinds that are needed together."""


def alternatives(needs: Needs) -> tuple[frozenset[SignalKind], ...]:
    """Return each alternative of `needs` as a set of kinds."""
    each = (needs,) if isinstance(needs, str) else needs
    return tuple(frozenset({one}) if isinstance(one, str) else one for one in each)


FIXED_AT_CAPTURE: frozenset[SignalKind] = frozenset({"sampled", "top-k", "chosen"})
"""Signals that hold a distribution at one temperature, chosen when they are taken."""


@dataclass(frozen=True)
class SignalRequest:
    """The signals requested of a teacher, or of a model's backbone, for a batch.

    `layers` counts decoder layers from 0, for all kinds that belong to layers: hidden states are each layer's output.
    `temperature` applies to signals that fix it at capture (`sampled`, `top-k`, `chosen`); logits are always raw.
    `routing` asks a student's backbone for its router logits; teachers are not asked for these.
    `chosen` is [N, K] int32 on the batch's device, padded with -1: the tokens whose log-probabilities the kind "chosen" asks
    for. Only a request for a batch has it.
    """

    kinds: frozenset[SignalKind] = frozenset()
    layers: tuple[int, ...] = ()
    temperature: float = 1.0
    chosen: Tensor | None = field(default=None, compare=False, repr=False)
    routing: bool = field(default=False, repr=False)


@dataclass(frozen=True, eq=False)
class Head:
    """A language-model head: logits = soft_cap(scale · (h · weightᵀ + bias))[:, :vocabulary].

    `weight` is [V_padded, H], `bias` [V_padded] or None, `vocabulary` the true V ≤ V_padded: rows above it are padding
    and never reach a loss. `soft_cap` c means c · tanh(x / c).
    """

    weight: Tensor
    vocabulary: int
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V] of final states [N, H], in the weight's dtype, with gradient. Since 0.1."""
        logits = hidden.to(self.weight.dtype) @ self.weight[: self.vocabulary].T
        if self.bias is not None:
            logits = logits + self.bias[: self.vocabulary]
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.soft_cap is None else self.soft_cap * (logits / self.soft_cap).tanh()


@dataclass(frozen=True, eq=False)
class LazyLogits:
    """Logits not yet multiplied out: final states [N, H] after the last norm, and the head that projects them."""

    hidden: Tensor
    head: Head


@dataclass(frozen=True, eq=False)
class DenseTokens:
    """A teacher's raw logits [C, V] over the true vocabulary, the student's order of tokens. No gradient.

    For a mixture of teachers they are T · log p, with p the mixture of their probabilities at the term's temperature T: so
    softmax(logits / T) is p, as it is for one teacher. At another temperature they are meaningless. Float32 or better.
    """

    logits: Tensor


@dataclass(frozen=True, eq=False)
class SparseTokens:
    """A teacher's distribution on K tokens per position; tensors are [C, K] in a chunk, [N, K] in a `Signal`.

    `ids` int32, padded with -1; `weights` float32, padded with 0. Form "sampled": counts / samples, sums to 1, unbiased.
    Form "top-k": probabilities, sums to at most 1. `temperature` was fixed when the signal was taken. A mixture of teachers
    is "sampled" and holds the tokens of each, weights times its share, so an id may come more than once.
    """

    ids: Tensor
    weights: Tensor
    form: Literal["sampled", "top-k"]
    temperature: float


@dataclass(frozen=True, eq=False)
class ChosenTokens:
    """A teacher's log-probabilities of K tokens per position that were requested; tensors are [C, K] or [N, K] as above.

    `ids` are those of the request, -1 pads; `log_probabilities` float32 at `temperature`, at most 0, and 0 at padding.
    """

    ids: Tensor
    log_probabilities: Tensor
    temperature: float


class Projections(NamedTuple):
    """Queries, keys and values of one layer at all positions, [B, L, width] each, heads side by side in their order.

    They are the inputs of the attention product: after rotary positions and norms, if the family has these, and before any
    scale. Keys and values are narrower than queries if several heads share one of them.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor


class Routing(NamedTuple):
    """Router logits of a mixture of experts at all positions, [B, L, experts] for each layer with experts.

    Each token passes through the `chosen` experts of its highest logits in each of these layers.
    """

    logits: tuple[Tensor, ...]
    chosen: int


@dataclass(frozen=True, eq=False)
class Signal:
    """A teacher's signals for one batch, without gradient, on the batch's device.

    `lazy`, `sparse` and `chosen` cover N positions. `hidden[layer]` is [N, H_T], `attentions[layer]` is [B, heads, L, L],
    and `projections[layer]` covers all positions. Only requested signals are present. `fingerprint` identifies the
    teacher's weights.
    """

    fingerprint: str
    lazy: LazyLogits | None = None
    sparse: SparseTokens | None = None
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attentions: Mapping[int, Tensor] = field(default_factory=dict)
    projections: Mapping[int, Projections] = field(default_factory=dict)
    chosen: ChosenTokens | None = None

    @classmethod
    def of_logits(cls, fingerprint: str, logits: Tensor) -> Signal:
        """Return the signal of a teacher without a head, such as a table: finite logits or log-probabilities [N, V].

        The head is the identity, V × V numbers in float32: suited to a vocabulary of up to about 10,000 tokens. Since 0.1.
        """
        size = logits.shape[1]
        return cls(fingerprint, LazyLogits(logits.detach().float(), Head(_identity(size, logits.device), size)))


@lru_cache(maxsize=1)
def _identity(size: int, device: Any) -> Tensor:
    import torch

    with torch.inference_mode(mode=False):
        return torch.eye(size, device=device)


@dataclass(frozen=True, eq=False)
class ModelOutputs:
    """A backbone's outputs for one batch: `last` [N, H] final states after the last norm, at labelled positions only.

    `hidden[layer]` is that layer's output at the same positions, [N, H]. `attentions[layer]` is [B, heads, L, L], and
    `projections[layer]` covers all positions, as does `routing`. Only requested outputs are present. Gradients flow.
    """

    last: Tensor
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attentions: Mapping[int, Tensor] = field(default_factory=dict)
    projections: Mapping[int, Projections] = field(default_factory=dict)
    routing: Routing | None = None


def checking_signals(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a teacher's `kdtool_signal` that checks what it returns; rows only of its first signal of each kind.

    Counting labels makes a GPU wait. Errors name the teacher's class, since a runtime may call it outside of hooks.
    """
    signature, compared = inspect.signature(method), WeakKeyDictionary[Any, set[str]]()

    @wraps(method)
    def kdtool_signal(self: Any, *args: Any, **kwargs: Any) -> Any:
        signal = method(self, *args, **kwargs)
        batch = signature.bind(self, *args, **kwargs).arguments.get("batch")
        try:
            _check_classes(signal)
            kinds, checked = _kinds(signal), compared.setdefault(self, set())
            if batch is not None and not kinds <= checked:
                check_rows(batch, signal)
                checked |= kinds
        except PluginError as error:
            raise PluginError(f"{type(self).__qualname__}: {error}") from None
        return signal

    return kdtool_signal


def check_rows(batch: Batch, signal: Signal) -> None:
    """Compare the shapes of a signal with its batch.

    Raises:
        PluginError: it does not have a row for each label, or the head does not fit the states.
    """
    parts = {f"hidden[{layer}]": states for layer, states in signal.hidden.items()}
    parts |= {} if signal.lazy is None else {"lazy (the logits)": signal.lazy.hidden}
    parts |= {f"{name}.ids": part.ids for name in ("sparse", "chosen") if (part := getattr(signal, name)) is not None}
    for name, tensor in parts.items():
        if len(tensor) != (labels := int((batch.labels != -100).sum())):
            message = f"its signal has {len(tensor)} rows in {name}, but the batch has {labels} labels"
            raise PluginError(f"{message}; return one row for each label that is not -100")
    if signal.lazy is not None:
        width, wanted = signal.lazy.hidden.shape[-1], signal.lazy.head.weight.shape[-1]
        if width != wanted:
            raise PluginError(
                f"its signal has width {width} in lazy.hidden, but its head multiplies width {wanted}; return one row of H "
                "numbers for each label and a weight [V, H], or build the signal by kdtool.Signal.of_logits"
            )


def _kinds(signal: Signal) -> set[str]:
    """Return the names of the signal's parts that have a row for each label."""
    return {name for name in ("hidden", "lazy", "sparse", "chosen") if getattr(signal, name)}


def _check_classes(signal: object) -> None:
    if not isinstance(signal, Signal):
        found = "None" if signal is None else f"an object of class {type(signal).__name__}"
        raise PluginError(f"kdtool_signal must return Signal, but returned {found}")
    for name, cls in (("lazy", LazyLogits), ("sparse", SparseTokens), ("chosen", ChosenTokens)):
        part = getattr(signal, name)
        if part is not None and not isinstance(part, cls):
            found = f"of class {type(part).__name__}"
            raise PluginError(f"kdtool_signal returned a wrong value: the answer.{name} is {found}, not {cls.__name__}")

"""Signals: what a teacher tells about tokens, and the views of it that a loss receives.

Notation: V true vocabulary, H width, B rows, L row length, N positions that carry a label (row-major over [B, L]), C
positions of one loss call, K teacher tokens kept per position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from kdtool._contract.text import Batch


Offer = Literal["logits", "sampled", "top-k", "hidden", "attentions", "projections", "text"]
"""What a teacher can give: full logits, sampled tokens, top-k tokens, hidden states, attention maps, projections (queries,
keys and values), text answers. Hidden states, maps and projections are of layers; a loss that needs them gets the same
of the student."""
FIXED_AT_CAPTURE: frozenset[Offer] = frozenset({"sampled", "top-k"})
"""Signals that hold a distribution at one temperature, chosen when they are taken."""


@dataclass(frozen=True)
class Want:
    """What is asked of a teacher, or of a model's backbone, for a batch.

    `layers` counts decoder layers from 0, for all kinds that are of layers: hidden states are each layer's output.
    `temperature` matters to signals that fix it at capture (`sampled`, `top-k`); logits are always raw.
    """

    kinds: frozenset[Offer] = frozenset()
    layers: tuple[int, ...] = ()
    temperature: float = 1.0


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

    Of a mixture of teachers they are T · log p, with p the mixture of their probabilities at the term's temperature T: so
    softmax(logits / T) is p, as it is for one teacher. At another temperature they say nothing. Float32 or better.
    """

    logits: Tensor


@dataclass(frozen=True, eq=False)
class SparseTokens:
    """A teacher's distribution on K tokens a position; tensors are [C, K] in a chunk, [N, K] in a `Signal`.

    `ids` int32, padded with -1; `weights` float32, padded with 0. Form "sampled": counts / draws, sums to 1, unbiased.
    Form "top-k": probabilities, sums to at most 1. `temperature` was fixed when the signal was taken. A mixture of teachers
    is "sampled" and holds the tokens of each, weights times its share, so an id may come more than once.
    """

    ids: Tensor
    weights: Tensor
    form: Literal["sampled", "top-k"]
    temperature: float


class Projections(NamedTuple):
    """Queries, keys and values of one layer at all positions, [B, L, width] each, heads side by side in their order.

    They are as attention multiplies them: after rotary positions and norms, where a family has these, and before any scale.
    Keys and values are narrower than queries where several heads share one of them.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Signal:
    """What a teacher tells about one batch, without gradient, on the batch's device.

    `lazy` is over N positions, `sparse` likewise; `hidden[layer]` is [N, H_T]; `attentions[layer]` is [B, heads, L, L];
    `projections[layer]` are of all positions. Only what was wanted is there. `fingerprint` names the teacher's weights.
    """

    fingerprint: str
    lazy: LazyLogits | None = None
    sparse: SparseTokens | None = None
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attentions: Mapping[int, Tensor] = field(default_factory=dict)
    projections: Mapping[int, Projections] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ModelOutputs:
    """A backbone's outputs for one batch: `last` [N, H] final states after the last norm, at labelled positions only.

    `hidden[layer]` is that layer's output at the same positions, [N, H]; `attentions[layer]` is [B, heads, L, L];
    `projections[layer]` are of all positions; each only where it was wanted. Gradients flow.
    """

    last: Tensor
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attentions: Mapping[int, Tensor] = field(default_factory=dict)
    projections: Mapping[int, Projections] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TokenChunk:
    """What a token loss sees: C positions (16 to some thousand) of one step, never a whole sequence.

    `student_logits` [C, V] in the compute dtype over the true vocabulary: convert to float32 before a softmax. `labels`
    [C] int64, never -100. `teacher` is None for a loss that needs none. `positions` [C]
    int64 count within the document. `columns` [C] each. `second_logits` are those of another pass with other dropout, for a
    loss that asks for two; gradients flow to both.
    `temperature` is the term's, and 1 for a weighting, also that of a mixture which it sees. `progress` (0 to 1) and `step`
    are 0-d tensors, so that compiled code is not rebuilt when they change.
    """

    student_logits: Tensor
    labels: Tensor
    teacher: DenseTokens | SparseTokens | None
    positions: Tensor
    temperature: float
    progress: Tensor
    step: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    second_logits: Tensor | None = None


@dataclass(frozen=True, eq=False)
class StepView:
    """What a sequence loss sees: one whole micro-batch, with gradient through `student`.

    `second` is another pass with other dropout, with gradient too, for a loss that asks for two.
    `teacher_batch` is what the teacher was told about where it does not read the student's tokens: the same rows in its own
    tokenizer, where its signal has one entry for each labelled position. Both batches then have the columns `byte_start` and
    `byte_end`: which bytes of its document the token stands for that a position predicts. `head` projects `student.last` to
    logits over the tokens that the term compares, with gradient to its weight; None: the trainer does not give it.
    `layers` are the term's pairs of (student layer, teacher layer), `module` is what `kdtool_modules` returned for it.
    """

    batch: Batch
    student: ModelOutputs
    teacher: Signal | None
    progress: Tensor
    step: Tensor
    teacher_batch: Batch | None = None
    head: Head | None = None
    second: ModelOutputs | None = None
    layers: tuple[tuple[int, int], ...] = ()
    module: Module | None = None


@dataclass(frozen=True, eq=False)
class PerToken:
    """One value for each of the N labelled positions; the trainer divides by their global count.

    Positions that predict rejected text (see `Row`) neither count nor matter.
    """

    values: Tensor


@dataclass(frozen=True, eq=False)
class PerSequence:
    """One value for each of the B rows; the trainer divides by their global count."""

    values: Tensor

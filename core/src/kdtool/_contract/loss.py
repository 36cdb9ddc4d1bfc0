"""Losses and weightings, and the views of a step that they receive.

Notation as in `signals`: B rows, L row length, N labelled positions, C positions of one loss call, V true vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kdtool._contract.component import Component, hook
from kdtool._contract.data import Batch, Example
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.run_info import TermReport
from kdtool._contract.signals import ChosenTokens, DenseTokens, Head, ModelOutputs, Needs, Signal, SparseTokens

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@dataclass(frozen=True, eq=False)
class TokenChunk:
    """The input of a token loss: C positions (16 to some thousand) of one step, never a whole sequence.

    `student_logits` [C, V] in the compute dtype over the true vocabulary: convert to float32 before a softmax. `labels` [C]
    int64, never -100. `teacher` is None for a loss that needs none. `positions` [C] int64 count within the document.
    `columns` [C] each. `second_logits` are those of another pass with other dropout, for a loss with two passes; gradients
    flow to both. `temperature` is the term's, and 1 for a weighting, even with a mixture of teachers. `progress` (0 to 1)
    and `step` are 0-d tensors, so that compiled code is not rebuilt when they change.
    """

    student_logits: Tensor
    labels: Tensor
    teacher: DenseTokens | SparseTokens | ChosenTokens | None
    positions: Tensor
    temperature: float
    progress: Tensor
    step: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    second_logits: Tensor | None = None


@dataclass(frozen=True, eq=False)
class StepView:
    """The input of a sequence loss: one whole micro-batch, with gradient through `student`.

    `second` is another pass with other dropout, with gradient too, for a loss with two passes. For a teacher that does not
    use the student's tokens, `teacher_batch` holds the same rows in its tokenizer, and its signal has one entry for each
    labelled position there. Both batches then have the columns `byte_start` and `byte_end`: the bytes of the document that
    the predicted token stands for. `head` projects `student.last` to logits over the tokens that the term compares, with
    gradient to its weight; None if the trainer does not provide it. `layers` are the term's pairs of (student layer,
    teacher layer), `module` is what `kdtool_modules` returned for it.
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


class Loss(Component):
    """One term of the training objective: extend `TokenLoss` or `SequenceLoss`."""

    kind = "loss"
    needs: Needs = ()
    """Required signals of a teacher: `"logits"`, or alternatives, best first: `("logits", "sampled")`; a frozenset holds
    signals that are needed together. () if it needs no teacher. May depend on the config."""
    divergence: bool = False
    """True if it is zero, with zero gradient, when student and teacher (and the two passes) agree; `kdtool_testing` checks
    it."""
    temperature: float = 1.0
    """The temperature of the loss, passed as `TokenChunk.temperature`. May depend on the config."""
    temperature_power: Literal[0, 1, 2] = 0
    """Exponent p such that the gradient scales as T^-p with its temperature T; the engine multiplies by T^p. 2 for a loss
    that is quadratic in small differences of softened distributions, such as the KLs, 1 for one that is linear in them,
    such as total variation, 0 for one without softened distributions."""
    forward_passes: Literal[1, 2] = 1
    """2 for a loss that compares two passes of the student over the same rows, with different dropout. Other losses see the
    first; a student without dropout is refused. May depend on the config."""
    on_policy: bool = False
    """True if it needs the column `student_generated` of a trainer with on-policy text: 1 for tokens that the student
    generated, 0 for the corpus's. Other trainers are refused. May depend on the config."""
    student_tokens: int = 0
    """Number K of the student's likeliest tokens per position whose log-probabilities it needs of the teacher, likeliest
    first, if its signal is "chosen"; other losses of the phase may add more. May depend on the config."""
    corpus_only: bool = False
    """True if it learns only from rows of the corpus, such as pairs of answers that a packer marks. It is refused in a
    phase whose trainer also learns on on-policy text. May depend on the config."""


class TokenLoss(Loss):
    """A loss of single positions, from the logits there. Its teacher must use the student's tokens."""

    @hook(needed=True)
    def kdtool_token_loss(self, chunk: TokenChunk) -> Tensor:
        """Return one value for each of the chunk's C positions, shape [C], float32.

        Called for every chunk of every step, on every rank, perhaps compiled. Gradients are taken only with respect to
        the chunk's logits, of both passes if there are two: no parameters, no state, nothing changed in place. The engine
        weights, masks, sums and divides. A wrong shape or a value that is not finite stops the run. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_token_gradient(self, chunk: TokenChunk) -> tuple[Tensor, Tensor] | None:
        """Return the values of `kdtool_token_loss`, and each value's gradient by its own row of logits, [C, V]: for speed.

        Called instead, for any chunk of a step, on every rank, without recording for autograd, if losses are not compiled.
        Both are float32 (float64 for float64 logits); the engine weights them. The gradient is in separate memory, which the
        caller may change; do not change the chunk. None: use autograd, as without this hook. Not called for losses with
        two passes. Compared with autograd before training. Since 0.1.
        """


class SequenceLoss(Loss):
    """A loss of whole rows: of hidden states, attention, or text that a teacher reads in its own tokens."""

    same_vocabulary: bool = True
    """True if it needs a teacher with the student's tokens: the same vocabulary, or one of which one begins with the other.
    Otherwise a teacher with other tokens receives the same texts in its tokens, and `StepView` holds the alignment. May
    depend on the config."""
    routing: bool = False
    """True if it reads `StepView.student.routing` and regularises it. A student without experts is refused. A control keeps
    the loss and its weight, and needs another loss."""

    @hook(needed=True)
    def kdtool_sequence_loss(self, view: StepView) -> PerToken | PerSequence:
        """Return one value per labelled position or per row, with gradient through `view.student` and `view.second`.

        Called once a micro-batch, on every rank. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_layers(self, student: ModelFacts, teacher: ModelFacts) -> Sequence[tuple[int, int]] | None:
        """Return pairs (student layer, teacher layer) to compare in the signals that `needs` names; layers count from 0.

        Called before signals are recorded. The loss receives the pairs in `StepView.layers`. None: no layers. Since 0.1.
        """

    def kdtool_modules(self, student: ModelFacts, teacher: ModelFacts) -> Module | None:
        """Return a module to train with the student (projectors); the trainer optimises, checkpoints and discards it.

        The loss receives it in `StepView.module`: keep no reference. Called once a phase, on every rank, after the trainer
        has seeded torch's generator with `run.seed`, and for `kdtool check` on the device "meta". Since 0.1.
        """


class Weighting(Component):
    """Weights tokens, or balances terms."""

    kind = "weighting"
    needs: Needs = ()
    """Required signals of the teacher, written as those of a `Loss`; () if any will do. It receives the signals of the
    phase's first token loss with a teacher; checked before anything is made. May depend on the config."""
    terms: frozenset[str] = frozenset()
    """Losses in its settings, by their names in the recipe: a phase without one of them is refused, except in the
    control."""
    gradient_norms: bool = False
    """True if `kdtool_balance` uses the terms' gradient norms, which cost time at every step; otherwise it receives none.
    May depend on the config."""
    label_key: str | None = None
    """Identifies the settings that `kdtool_annotate` depends on, so that changing others keeps rows and signals; None: all.
    May depend on the config."""

    def kdtool_token_weight(self, chunk: TokenChunk) -> Tensor:
        """Return a weight for each position, shape [C], finite, not negative, without gradient, in any unit.

        Called for every chunk, perhaps compiled: a weight depends only on its own position, and nothing is stored or
        changed in place. Several weightings are multiplied, and the trainer divides by the mean of the products, so they do
        not change the weight of a loss. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_balance(
        self, terms: Mapping[str, TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float] | None:
        """Return the factor (from 0) of each term's weight for the coming step, from the last step's figures.

        Terms are named by their components; a term that is left out keeps its weight. A term without tokens at the last
        step is not in `terms`; it may have a factor. Called before every step except the first, on every rank with the same
        figures. Factors of several weightings are multiplied.

        Whatever is kept between calls, such as a running mean, belongs in `state`: empty at the phase's start, stored in
        each checkpoint and restored from it. It holds what JSON can express: text, whole and finite numbers, booleans, None,
        lists, and mappings with text as keys. Since 0.1.
        """

    def kdtool_annotate(self, example: Example) -> Mapping[str, Sequence[int]]:
        """Return, for each of `columns`, one whole number from 0 per character of the example's text; 0 if unknown.

        For a weighting that labels text itself: the packer transfers the numbers to tokens, as columns of the phase's rows.
        The text is the concatenation of all parts of the body (`kdtool.parts_of`). Called once per example when the phase's
        rows are made, on rank 0, for examples that the filters kept. The numbers depend only on the example. Since 0.1.
        """
        raise NotImplementedError

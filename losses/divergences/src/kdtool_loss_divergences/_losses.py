"""The divergences as classes that recipes name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

import kdtool

from kdtool_loss_divergences import _bounded, _kl

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")


class _Divergence(kdtool.TokenLoss):
    """Base of the divergences: their temperature, and the attributes that the engine reads."""

    temperature_power: Literal[0, 1, 2] = 2
    divergence = True
    needs: kdtool.SignalKind | tuple[kdtool.SignalKind, ...] = "logits"
    config: Config

    class Config(kdtool.Config):
        """Settings of every divergence."""

        temperature: float = kdtool.Field(default=1.0, gt=0, le=100)
        """Softens both distributions: logits are divided by it. Above 1, unlikely tokens count more."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.temperature = config.temperature


class ForwardKL(_Divergence):
    """KL(teacher ‖ student): the student learns to cover all that the teacher finds likely.

    With logits it is exact; with sampled tokens its gradient is unbiased; with top-k tokens it is a lower bound that
    does not see how the remaining probability is spread (below k = 100 expect a student worse than one without teacher).
    """

    needs = ("logits", "sampled", "top-k")

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]; its form depends on the signal."""
        return _by_form(chunk, _kl.forward_kl, _kl.sampled_forward_kl, _kl.top_k_forward_kl)

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        """Return the divergence of each position and its gradient."""
        return _by_form(chunk, _kl.forward_kl_gradient, _kl.sampled_forward_kl_gradient, _kl.top_k_forward_kl_gradient)


class StudentSupport(kdtool.Config):
    """The tokens at each position that a divergence compares one by one."""

    student: int = kdtool.Field(ge=1, le=1000)
    """Number of the student's likeliest tokens."""


class ReverseKL(_Divergence):
    """KL(student ‖ teacher): the student learns to say only what the teacher finds likely (mode seeking).

    With `support` it compares only the student's likeliest tokens, exactly, and all others as one token. A teacher that has
    no logits, such as a server, then gives its log-probabilities of these tokens.
    """

    config: Config

    class Config(_Divergence.Config):
        """Settings of `reverse-kl`."""

        support: StudentSupport | None = None
        """Tokens to compare, such as `{student: 16}`, the student's 16 likeliest; null compares all of the vocabulary."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.support is not None:
            self.needs, self.student_tokens = ("logits", "chosen"), config.support.student

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]."""
        if self.config.support is None:
            return _kl.reverse_kl(chunk.student_logits, _logits(chunk), chunk.temperature)
        return _kl.support_reverse_kl(chunk.student_logits, _support(chunk, self.student_tokens), chunk.temperature)

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        """Return the divergence of each position and its gradient."""
        if self.config.support is None:
            return _kl.reverse_kl_gradient(chunk.student_logits, _logits(chunk), chunk.temperature)
        return _kl.support_reverse_kl_gradient(
            chunk.student_logits, _support(chunk, self.student_tokens), chunk.temperature
        )


class JensenShannon(_Divergence):
    """Generalised Jensen-Shannon divergence: between covering the teacher (small beta) and seeking its modes (large)."""

    config: Config

    class Config(_Divergence.Config):
        """Settings of `jsd`."""

        beta: float = kdtool.Field(default=0.5, gt=0, lt=1)
        """The teacher's share of the mixture. Near 0 it behaves as forward KL, near 1 as reverse KL, scaled down."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]."""
        return _bounded.jensen_shannon(chunk.student_logits, _logits(chunk), chunk.temperature, self.config.beta)

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        """Return the divergence of each position and its gradient."""
        return _bounded.jensen_shannon_gradient(
            chunk.student_logits, _logits(chunk), chunk.temperature, self.config.beta
        )


class _Skewed(_Divergence):
    """Base of the skewed divergences: the share that is mixed in."""

    config: Config

    class Config(_Divergence.Config):
        """Settings of `skew-kl`, `skew-reverse-kl` and `contrastive`."""

        alpha: float = kdtool.Field(default=0.1, gt=0, lt=1)
        """Share of the compared distribution that is mixed into the other. The value stays below −log alpha."""


class SkewKL(_Skewed):
    """KL(teacher ‖ mixture with some of the teacher): forward KL that one impossible token cannot swamp (DistiLLM)."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]."""
        return _bounded.skew_kl(chunk.student_logits, _logits(chunk), chunk.temperature, self.config.alpha)

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        """Return the divergence of each position and its gradient."""
        return _bounded.skew_kl_gradient(chunk.student_logits, _logits(chunk), chunk.temperature, self.config.alpha)


class SkewReverseKL(_Skewed):
    """KL(student ‖ mixture with some of the student): reverse KL that stays bounded if the teacher excludes a token."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]."""
        return _bounded.skew_reverse_kl(chunk.student_logits, _logits(chunk), chunk.temperature, self.config.alpha)

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        """Return the divergence of each position and its gradient."""
        return _bounded.skew_reverse_kl_gradient(
            chunk.student_logits, _logits(chunk), chunk.temperature, self.config.alpha
        )


class Contrastive(_Skewed):
    """Skewed KL on tokens of the corpus, skewed reverse KL on tokens that the student wrote (DistiLLM-2).

    For trainers that also learn from text that the student writes (`standard` with `on_policy`).
    """

    on_policy = True

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]."""
        if "student_generated" not in chunk.columns:
            raise kdtool.UsageError(
                "contrastive needs the column `student_generated`, which marks the tokens that the student wrote, but the "
                "trainer does not provide it: set `trainer: {on_policy: {}}`, or use skew-kl"
            )
        student_generated = chunk.columns["student_generated"]
        return _bounded.contrastive(
            chunk.student_logits, _logits(chunk), student_generated, chunk.temperature, self.config.alpha
        )


class AdaptiveKL(_Divergence):
    """Forward KL for what is wrong among the teacher's likeliest tokens, reverse KL for what is wrong in the tail (AKL)."""

    config: Config

    class Config(_Divergence.Config):
        """Settings of `adaptive-kl`."""

        head: float = kdtool.Field(default=0.5, ge=0, lt=1)
        """The likeliest tokens up to this probability together are the teacher's head; 0 takes one token."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]."""
        return _kl.adaptive_kl(chunk.student_logits, _logits(chunk), chunk.temperature, self.config.head)


class TotalVariation(_Divergence):
    """½·Σ|teacher − student|: the probability that would have to be moved, between 0 and 1."""

    temperature_power = 1

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the distance of each position, [C]."""
        return _bounded.total_variation(chunk.student_logits, _logits(chunk), chunk.temperature)

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        """Return the distance of each position and its gradient."""
        return _bounded.total_variation_gradient(chunk.student_logits, _logits(chunk), chunk.temperature)


def _by_form(
    chunk: kdtool.TokenChunk,
    dense: Callable[[Tensor, Tensor, float], Result],
    sampled: Callable[[Tensor, Tensor, Tensor, float], Result],
    top_k: Callable[[Tensor, Tensor, Tensor, float], Result],
) -> Result:
    """Call the one that the teacher's signal is for."""
    teacher = chunk.teacher
    if not isinstance(teacher, kdtool.SparseTokens):
        return dense(chunk.student_logits, _logits(chunk), chunk.temperature)
    sparse = sampled if teacher.form == "sampled" else top_k
    return sparse(chunk.student_logits, teacher.ids, teacher.weights, chunk.temperature)


def _support(chunk: kdtool.TokenChunk, size: int) -> _kl.Support:
    """Return the student's likeliest tokens, from the teacher's logits or from its answer about chosen tokens."""
    teacher = chunk.teacher
    if isinstance(teacher, kdtool.ChosenTokens):
        return _kl.support_from_chosen(teacher.ids, teacher.log_probabilities, size)
    return _kl.support_from_logits(chunk.student_logits, _logits(chunk), chunk.temperature, size)


def _logits(chunk: kdtool.TokenChunk) -> Tensor:
    if isinstance(chunk.teacher, kdtool.DenseTokens):
        return chunk.teacher.logits
    raise kdtool.PluginError(f"a divergence needs the teacher's logits, but got {type(chunk.teacher).__name__}")

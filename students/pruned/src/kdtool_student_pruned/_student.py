"""The student `pruned` and its settings: finds its shape, chooses the units that stay, and builds it.

Light: torch and transformers load in hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import kdtool
from kdtool_transformers import CausalStudent

from kdtool_student_pruned._config import PrunedConfig

if TYPE_CHECKING:
    from kdtool_transformers import TransformersFacts, TransformersModel

    from kdtool_student_pruned._anatomy import Anatomy, Shape
    from kdtool_student_pruned._cut import Kept


class Pruned(CausalStudent):
    """A teacher reduced to some of its layers, channels, attention heads and feed-forward neurons."""

    uses_seed = False

    class Config(PrunedConfig):
        """Settings of the student `pruned`."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.derives_from = {config.source: "weights"}
        self.pretrained = config.base
        self._said = False

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        found = self._source(run, "kdtool_tokenizer").kdtool_tokenizer(run)
        if found is None:
            raise kdtool.UsageError(f"source: {self.config.source} has no tokenizer; name a teacher that has one")
        return found

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        identity = self._source(run, "kdtool_identity").kdtool_identity(run) or {}
        return {f"source {name}": value for name, value in identity.items()}

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        from kdtool_transformers import TransformersModel, TransformersTokenizer, outline_of, without_weights

        from kdtool_student_pruned._anatomy import smaller_config

        plan, kept = self._plan(run), self.config.keep or ()
        layers = kept or range(plan.shape.layers)  # as many as there will be, whichever they are
        shape = plan.shape if plan.cuts_width else None
        smaller = smaller_config(plan.facts.configuration, layers, shape, self.config.context)
        if not plan.facts.tokenizer_fingerprint:  # the source is not on this machine yet
            outline = outline_of(smaller)
            outline.copied_layers = kept
            return outline
        tokenizer = self.kdtool_tokenizer(run)
        if not isinstance(tokenizer, TransformersTokenizer):
            raise self._cannot_be_cut()
        return TransformersModel(without_weights(smaller), tokenizer, kept)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_torch import forward_bytes, student_estimates

        yield from student_estimates(ahead)
        source = ahead.models.get(self.config.source)
        if source is not None:
            tokens = self.config.calibration_length * 4
            size = forward_bytes(source, tokens, source.dtype)
            yield kdtool.Estimate("calibration", ("students",), compute_bytes=size)

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        from kdtool_transformers import TransformersModel

        from kdtool_student_pruned._cut import cut

        plan = self._plan(run)
        opened = self._source(run, "kdtool_open").kdtool_open(run, kdtool.Subject(self.config.source, "teacher"))
        if opened is None:
            raise self._cannot_be_cut()
        with opened as runtime:
            model = runtime.model
            if not isinstance(model, TransformersModel):
                raise self._cannot_be_cut()
            kept = self._choose(run, model, plan)
            layers = ", ".join(map(str, kept.layers))
            run.say(f"student: layers {layers} of the {plan.source.shape.layers} of {self.config.source}")
            return cut(model, kept, self.config.context)

    def _plan(self, run: kdtool.RunInfo) -> _Plan:
        """Find the shape from the source's configuration; say it, once."""
        from kdtool_transformers import TransformersFacts
        from kdtool_transformers.sizes import uses_of

        from kdtool_student_pruned._anatomy import Anatomy
        from kdtool_student_pruned._target import sentence, shape_notes, wanted_shape

        source = self._source(run, "kdtool_describe")
        if quantised := getattr(source.config, "quantise", None):
            raise kdtool.UsageError(
                f"source: {self.config.source} has weights in {quantised}, which cannot be cut: leave its `quantise` out, "
                "or cut it once on a larger machine, and continue here with the student `pretrained`"
            )
        facts = source.kdtool_describe(run)
        if not isinstance(facts, TransformersFacts):
            raise self._cannot_be_cut()
        if getattr(facts.configuration, "scale_attn_by_inverse_layer_idx", False):
            raise kdtool.UsageError(
                f"source: {self.config.source} scales attention by the layer's number, so it cannot be cut: take another"
            )
        longest = facts.configuration.max_position_embeddings
        if self.config.context is not None and self.config.context > longest:
            raise kdtool.UsageError(
                f"context: {self.config.context:,} exceeds the {longest:,} tokens of {self.config.source}; give at most that"
            )
        anatomy = Anatomy.of(facts)
        shape = wanted_shape(self.config, anatomy)
        plan = _Plan(facts, anatomy, shape)
        if plan.cuts_width and not self._said:
            self._said = True
            for line in (sentence(shape, anatomy, self.config.source), *shape_notes(shape, anatomy, uses_of(run))):
                run.say(f"student: {line}")
        return plan

    def _choose(self, run: kdtool.RunInfo, model: TransformersModel, plan: _Plan) -> Kept:
        from kdtool_student_pruned._cut import Kept, choose, most_important
        from kdtool_student_pruned._importance import measure

        count, available = plan.shape.layers, plan.source.shape.layers
        layers = self.config.keep
        if count == available:
            layers = tuple(range(available))
        if layers is not None and not plan.cuts_width:
            return Kept(layers)
        rows, length = self.config.calibration_rows, self.config.calibration_length
        importance = measure(model, run.texts.examples("train"), rows, length, widths=plan.cuts_width)
        layers = layers or most_important(importance.layers.tolist(), count)
        return choose(importance, layers, plan.shape, plan.source)

    def _source(self, run: kdtool.RunInfo, hook: str) -> kdtool.Teacher:
        """Return the source, which implements `hook`."""
        if self.config.source not in run.implementing(hook):
            raise kdtool.UsageError(
                f"source: {self.config.source} is not a teacher of this recipe whose model can be cut; "
                "name one that opens weights by transformers"
            )
        return run.component(self.config.source, kdtool.Teacher)

    def _cannot_be_cut(self) -> kdtool.UsageError:
        return kdtool.UsageError(
            f"source: {self.config.source} gives no model of transformers, so it cannot be cut; use causal-lm or smollm2"
        )


class _Plan(NamedTuple):
    """Facts known before weights load: the source's description and anatomy, and the shape of the student."""

    facts: TransformersFacts
    source: Anatomy
    shape: Shape

    @property
    def cuts_width(self) -> bool:
        """Return whether anything is left out besides layers."""
        return self.shape[1:] != self.source.shape[1:]

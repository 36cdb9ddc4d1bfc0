"""Student plugin `pruned`: some of the teacher's layers, copied as they are.

`Pruned` is the student; `_importance` ranks the teacher's layers on calibration text; `_cut` builds the smaller model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

import kdtool
import pydantic

if TYPE_CHECKING:
    from kdtool_transformers import TransformersModel

__all__ = ["Pruned"]

T = TypeVar("T")


class Pruned(kdtool.Student):
    """Keeps a teacher's embedding, head, final norm and some of its decoder layers; the rest is left out."""

    uses_seed = False

    class Config(kdtool.Config):
        """Settings of the student `pruned`."""

        layers: int | None = kdtool.Field(default=None, ge=1)
        """How many decoder layers stay; `importance` chooses them. Give this or `keep`."""
        keep: tuple[int, ...] | None = None
        """The teacher's layers to keep, counted from 0, in ascending order."""
        source: str = "teacher"
        """The component to cut: a teacher's name in the recipe (`teacher`, or `teachers.NAME`)."""
        importance: Literal["block-influence", "uniform"] = "block-influence"
        """`block-influence`: layers that change their input most stay (one minus the cosine of a layer's input and output,
        mean over calibration tokens; ShortGPT, arXiv 2403.03853). `uniform`: evenly spaced ones, first and last included."""
        calibration_rows: int = kdtool.Field(default=16, ge=1, le=4096)
        """Rows of training text that importance is measured on."""
        calibration_length: int = kdtool.Field(default=512, ge=8, le=8192)
        """Tokens in a calibration row."""

        @pydantic.model_validator(mode="after")
        def _one_choice(self) -> Pruned.Config:
            if (self.layers is None) == (self.keep is None):
                raise ValueError("give either layers (how many stay) or keep (which stay)")
            if self.keep is not None and (
                not self.keep or list(self.keep) != sorted(set(self.keep)) or self.keep[0] < 0
            ):
                raise ValueError("keep must name at least one layer, each once, in ascending order from 0")
            return self

        @property
        def count(self) -> int:
            """How many layers stay."""
            return len(self.keep) if self.keep is not None else self.layers or 0

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.takes = {config.source: "weights"}

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self._of_source(run.hook.kdtool_tokenizer.of)(run)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        return {f"source {name}": value for name, value in self._of_source(run.hook.kdtool_identity.of)(run).items()}

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        facts = self._of_source(run.hook.kdtool_describe.of)(run)
        self._check_layers(facts.layers)
        parameters = facts.parameters - (facts.layers - self.config.count) * _layer_parameters(facts)
        return replace(
            facts,
            parameters=parameters,
            trainable=parameters,
            layers=self.config.count,
            dtype="float32",
            copied_layers=self.config.keep or (),
        )

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        from kdtool_student_pruned._cut import cut

        subject = kdtool.Subject(self.config.source, "teacher")
        with self._of_source(run.hook.kdtool_open.of)(run, subject) as runtime:
            model = self._transformers_model(runtime)
            self._check_layers(model.facts.layers)
            keep = self.config.keep or self._choose(run, model)
            run.say(f"student: layers {', '.join(map(str, keep))} of the {model.facts.layers} of {self.config.source}")
            return cut(model, keep)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        import torch
        from kdtool_transformers import compute_dtype, open_runtime, pick_device

        if subject.role not in ("student", "control") or subject.path is None:
            return None
        device = pick_device()
        return open_runtime(
            subject.path, dtype=torch.float32, compute=compute_dtype("auto", device), device=device, offline=True
        )

    def _choose(self, run: kdtool.RunInfo, model: TransformersModel) -> tuple[int, ...]:
        from kdtool_student_pruned._importance import block_influence, most_important, uniform

        if self.config.importance == "uniform":
            return uniform(model.facts.layers, self.config.count)
        examples = run.texts.examples("train")
        influence = block_influence(model, examples, self.config.calibration_rows, self.config.calibration_length)
        return most_important(influence, self.config.count)

    def _check_layers(self, available: int) -> None:
        if self.config.count > available or (self.config.keep and self.config.keep[-1] >= available):
            wanted = f"keep: {list(self.config.keep)}" if self.config.keep else f"layers: {self.config.layers}"
            raise kdtool.UsageError(
                f"{wanted} asks for more than {self.config.source} has: {available} layers, 0 to {available - 1}"
            )

    def _of_source(self, of: Callable[[str], T]) -> T:
        try:
            return of(self.config.source)
        except LookupError as error:
            raise kdtool.UsageError(
                f"source: {self.config.source} is no teacher of this recipe whose model can be cut ({error})"
            ) from error

    def _transformers_model(self, runtime: kdtool.Runtime) -> TransformersModel:
        from kdtool_transformers import TransformersModel

        if not isinstance(runtime.model, TransformersModel):
            raise kdtool.UsageError(
                f"source: {self.config.source} gives no model of transformers, so it cannot be cut; use causal-lm or smollm2"
            )
        return runtime.model


def _layer_parameters(facts: kdtool.ModelFacts) -> int:
    """Take embeddings and the final norm (a weight, or weight and bias) away; the layers share what is left evenly."""
    left = facts.parameters - facts.vocabulary * facts.hidden * (1 if facts.tied else 2)
    for norm in (facts.hidden, 2 * facts.hidden):
        if (left - norm) % facts.layers == 0:
            return (left - norm) // facts.layers
    return left // facts.layers

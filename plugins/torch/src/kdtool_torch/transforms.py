"""Transforms that need nothing besides the model: `freeze` and `gradient-checkpointing`.

`freeze` is applied before a phase trains and undone when it ends: it changes which parameters learn, nothing else.
`gradient-checkpointing` switches on what transformers offers, for one phase: activations of layers are computed again
instead of kept. It changes neither weights nor the saved model.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import kdtool
from kdtool import Field

EMBEDDINGS = "embeddings"


class Freeze(kdtool.Transform):
    """Freezes parameters that match these patterns, so that only the others learn."""

    on_meta_device = True

    class Config(kdtool.Config):
        """Parameters that are frozen."""

        names: list[str] = Field([EMBEDDINGS], min_length=1)
        """Shell patterns of parameter names, such as `*layers.0.*`; the word `embeddings` stands for input and output
        embeddings, regardless of their names in the model."""

    config: Config

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        frozen: list[Any] = []
        for pattern in self.config.names:
            matching = list(self._matching(student.model, pattern))
            if not matching:
                some = ", ".join(name for name, _ in list(student.model.named_parameters())[:4])
                raise kdtool.UsageError(f"freeze: no parameter is called {pattern!r}; there are for example {some}")
            frozen.extend(parameter for parameter in matching if parameter.requires_grad)
        for parameter in frozen:
            parameter.requires_grad_(requires_grad=False)
        if not any(parameter.requires_grad for parameter in student.model.parameters()):
            raise kdtool.UsageError(f"freeze: {self.config.names} leaves nothing that learns")
        yield student
        for parameter in frozen:
            parameter.requires_grad_(requires_grad=True)

    def _matching(self, model: Any, pattern: str) -> Iterator[Any]:
        if pattern == EMBEDDINGS:
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                yield from module.parameters() if module is not None else ()
            return
        for name, parameter in model.named_parameters():
            if fnmatchcase(name, pattern):
                yield parameter


class GradientCheckpointing(kdtool.Transform):
    """Keeps only each layer's input for the backward pass, and computes the layer again there (arXiv 1604.06174)."""

    saves_memory = kdtool.Saving({}, "a third slower, the same result")
    on_meta_device = True

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        name = type(student.model).__name__
        switch_on = getattr(student.model, "activation_checkpointing_enable", None)
        if switch_on is None:
            raise kdtool.UsageError(
                f"gradient-checkpointing needs a model of transformers, not {name}; remove the transform"
            )
        try:
            switch_on({"use_reentrant": False})  # reentrant, captured hidden states would carry no gradient
        except ValueError as error:
            raise kdtool.UsageError(f"gradient-checkpointing: {error} Leave it out") from error
        yield student
        student.model.activation_checkpointing_disable()

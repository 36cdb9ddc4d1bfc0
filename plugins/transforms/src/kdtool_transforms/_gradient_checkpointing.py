"""The transform `gradient-checkpointing`: activations of layers are computed again instead of kept.

Switches on what transformers offers, for one phase. It changes neither weights nor the saved model.
"""

from __future__ import annotations

from collections.abc import Iterator

import kdtool

__all__ = ["GradientCheckpointing"]


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

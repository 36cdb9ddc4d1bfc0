"""Linear layers that compute with the weights of a GGUF file while a phase trains, and keep these afterwards.

Each matrix is rounded by the code that writes files, to the type that it has in the file; rounding has a gradient of
one (the straight-through estimator, arXiv 1308.3432). Embeddings and head keep all their bits: trainers compute with
the head's own weight, and files store both in 6 bits or more.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import kdtool
import numpy as np
import torch
from gguf import GGMLQuantizationType
from kdtool_torch import require_same_logits
from kdtool_transformers import TransformersModel
from numpy.typing import NDArray
from torch import Tensor, nn

from kdtool_export.gguf.calibration import Importance, measure_importance, windows_of
from kdtool_export.gguf.files import names_in_file, require_gguf
from kdtool_export.gguf.quantisation import ModelShape, round_values, tensor_type
from kdtool_export.gguf.settings import CALIBRATE, WEIGHTED

if TYPE_CHECKING:
    from kdtool_export.gguf.settings import GGUFGridConfig


class Grid:
    """The layers of one student that are on a grid during one phase."""

    def __init__(self, student: kdtool.LanguageModel, config: GGUFGridConfig, run: kdtool.RunInfo) -> None:
        """Put the student's linear layers on the grid.

        Raises:
            UsageError: the student cannot be exported, or another transform has changed its layers already.
        """
        if not isinstance(student, TransformersModel):
            raise kdtool.UsageError("gguf-grid: the student is not a model of transformers; leave the transform out")
        require_gguf(student.model.config, student.tokenizer)
        self._student, self._plain = student, _linear_layers(student)
        importance = _importance(student, config, run)
        shape, name_in_file = ModelShape.of(student.model.config), names_in_file(student.model.config)
        kinds: Counter[str] = Counter()
        for path, layer in self._plain.items():
            name = f"{name_in_file(path)}.weight"
            kind = tensor_type(config.type, name, tuple(layer.weight.shape), shape, weighted=bool(importance))
            student.model.set_submodule(path, _Rounded(layer, kind, importance.get(name)))
            kinds[kind.name] += 1
        run.say(f"gguf-grid: {', '.join(f'{count} matrices in {kind}' for kind, count in kinds.items())}")

    def settle(self) -> None:
        """Make the student a plain model again, whose weights are those that it computed with: on the grid.

        Raises:
            PluginError: its logits changed.
        """
        model = self._student.model
        with require_same_logits(self._student, "writing weights on the grid"):
            for path, plain in self._plain.items():
                layer = model.get_submodule(path)
                layer.weight.data.copy_(layer.round_weight())
                plain.weight, plain.bias = layer.weight, layer.bias
                model.set_submodule(path, plain.train(layer.training))


class _Rounded(nn.Module):
    """A linear layer that computes with its weight rounded; its parameters are those of `plain`, under the same names."""

    def __init__(self, plain: nn.Linear, kind: GGMLQuantizationType, importance: NDArray[np.float32] | None) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.train(plain.training)
        self._kind, self._importance = kind, importance
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        # The difference is exactly 0, so that the sum is the rounded weight, with the gradient of the weight itself.
        return nn.functional.linear(inputs, self.round_weight() + (self.weight - self.weight.detach()), self.bias)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def round_weight(self) -> Tensor:
        """Return the rounded weight; computed again when the weight has changed, such as by a step or a checkpoint."""
        weight = self.weight.detach()
        if self._last is None or not torch.equal(self._last[0], weight):
            values = round_values(weight.float().cpu().numpy(), self._kind, self._importance)
            self._last = weight.clone(), torch.from_numpy(values).to(weight)
        return self._last[1]


def _importance(student: TransformersModel, config: GGUFGridConfig, run: kdtool.RunInfo) -> Importance:
    if config.imatrix == "none" or config.type not in WEIGHTED:
        return {}
    context = student.facts.context
    windows, _ = windows_of(run, student.tokenizer, context, calibrate=CALIBRATE, measure=CALIBRATE)
    return measure_importance(student, windows) if windows else {}


def _linear_layers(student: TransformersModel) -> dict[str, Any]:
    """Return the linear layers by path, except the head.

    Raises:
        UsageError: there is none, or another transform has changed one.
    """
    head, model = student.head.weight, student.model
    layers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | _Rounded) and module.weight is not head
    }
    if not layers:
        raise kdtool.UsageError(
            f"gguf-grid rounds layers of class torch.nn.Linear, and {type(model).__name__} has none: leave it out"
        )
    for path, module in layers.items():
        if type(module) is not nn.Linear or getattr(model, "peft_config", None):
            raise kdtool.UsageError(
                f"gguf-grid rounds plain linear layers, and another transform of this phase changed {path}: give "
                "gguf-grid a separate phase, after the other's"
            )
    return layers

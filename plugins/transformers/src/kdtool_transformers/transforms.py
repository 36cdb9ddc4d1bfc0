"""The transforms `lora`, `qlora`, `qat`, `compile` and `liger`: their settings, checks and hooks.

- `lora` and `qlora`: a phase trains low-rank adapters on frozen weights, and merges them at its end. The model object stays
  the student's own, so trainers see backbone and head as they were
- `qat`: a phase trains with weights rounded to a grid of few bits, and leaves weights that lie on it. The saved model is a
  plain one
- `compile`: a student's decoder layers run compiled while a phase trains. Weights, their names and saved files stay the same
- `liger`: fused kernels of liger-kernel in a student while a phase trains on a GPU. Liger's fused loss is not used: the
  trainers' chunked head does the same

Light: each loads its library when a phase begins. The work is done by `lora` and `nf4`, `qat`, and `fast_layers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import kdtool
from kdtool import Field

from kdtool_transformers.weights import NF4_BITS

if TYPE_CHECKING:
    from kdtool_transformers.lora import Adapters


class Lora(kdtool.Transform):
    """Trains W + scale · B · A, W frozen, A and B of low rank (arXiv 2106.09685), and adds the product to W at the end."""

    extra = "lora"

    class Config(kdtool.Config):
        """Size and place of the adapters."""

        r: int = Field(8, ge=1)
        """Rank of the adapters."""
        alpha: int = Field(16, ge=1)
        """The adapters' product is scaled by alpha / r."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Share of an adapter's inputs that is zeroed while it trains."""
        targets: list[str] | Literal["all-linear"] = "all-linear"
        """Names of linear layers, such as [q_proj, v_proj], or `all-linear`: all except the head."""
        keep_adapter: bool = False
        """Also write the adapter without its base model, in peft's format, to `adapter` in the phase's folder."""

    saves_memory = kdtool.Saving({}, "only adapters of low rank learn", changes_result=True, freezes=True)
    on_meta_device = True
    config: Config

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        adapters = self._add_adapters(student, run)
        yield student
        if self.config.keep_adapter and run.rank == 0:
            adapters.save(run.folder / "adapter", run)
            run.say(
                f"the adapter is also saved separately in {run.folder / 'adapter'}, with a card that shows how to open it"
            )
        adapters.merge()

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_transformers.lora import rewriting_parts

        yield from rewriting_parts(ahead)

    def _add_adapters(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Adapters:
        from kdtool_transformers.lora import Adapters

        return Adapters(student, self.config, run.seed)


class Qlora(Lora):
    """LoRA on frozen weights that are stored in 4 bits (nf4, arXiv 2305.14314), dequantised and merged at the end."""

    extra = "qlora"

    saves_memory = kdtool.Saving(
        {}, "only adapters learn, and weights are stored in 4 bits", changes_result=True, freezes=True
    )

    def _add_adapters(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Adapters:
        from kdtool_transformers.lora import Adapters

        if next(student.model.parameters()).is_meta:
            _store_in_bits(student, NF4_BITS)
            return super()._add_adapters(student, run)
        return Adapters(student, self.config, run.seed, in_bits=True)


def _store_in_bits(student: kdtool.LanguageModel, bits: float) -> None:
    """Give weights on the meta device their later size, without needing bitsandbytes."""
    from kdtool_torch import store_as

    from kdtool_transformers.lora import linear_layers

    for layer in linear_layers(student).values():
        store_as(layer.weight, int(layer.weight.numel() * bits / 8))


class Qat(kdtool.Transform):
    """Trains with the weights of linear layers rounded to few bits (torchao), so that rounding costs less afterwards."""

    extra = "qat"

    class Config(kdtool.Config):
        """The grid that weights are rounded to."""

        bits: int = Field(4, ge=2, le=8)
        """Bits of a weight: it takes one of 2^bits values between the least and the greatest of its group."""
        group_size: int = Field(32, ge=2)
        """Weights of a row that share a scale and an offset. Layers with rows of another length are not quantised."""

    config: Config

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        from kdtool_transformers.qat import Grid

        grid = Grid(student, self.config, run.say)
        yield student
        grid.settle()


class Compile(kdtool.Transform):
    """Compiles the decoder layers with torch.compile, so that a step of a long phase takes less time."""

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        from kdtool_transformers.fast_layers import missing_to_compile

        return missing_to_compile()

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        from kdtool_transformers.fast_layers import CompiledLayers

        layers = CompiledLayers(student.model)
        yield student
        layers.restore()


class Liger(kdtool.Transform):
    """Computes norms, rotary positions and SwiGLU with liger-kernel's Triton kernels (arXiv 2410.10989)."""

    extra = "liger"

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        from kdtool_torch import pick_device

        problems = []
        if pick_device().type != "cuda":
            problems.append(
                "liger's kernels run on GPUs that Triton compiles for, and torch sees none here: run on a machine with one, "
                "or leave `liger` out"
            )
        elif find_spec("triton") is None:
            problems.append(
                "Triton, which compiles liger's kernels, is not installed: pip install triton, or leave `liger` out"
            )
        return problems

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        from kdtool_transformers.fast_layers import FusedModules

        modules = FusedModules(student.model)
        yield student
        modules.restore()

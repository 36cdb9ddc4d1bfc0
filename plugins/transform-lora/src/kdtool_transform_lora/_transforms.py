"""The transforms `lora` and `qlora`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import kdtool

from kdtool_transform_lora._config import LoraConfig

if TYPE_CHECKING:
    from kdtool_transform_lora._adapters import Adapters

__all__ = ["Lora", "Qlora"]


class Lora(kdtool.Transform):
    """Trains W + scale · B · A, W frozen, A and B of low rank (arXiv 2106.09685), and adds the product to W at the end."""

    class Config(LoraConfig):
        """Size and place of the adapters."""

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
        from kdtool_transform_lora._estimate import rewriting_parts

        yield from rewriting_parts(ahead)

    def _add_adapters(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Adapters:
        from kdtool_transform_lora._adapters import Adapters

        return Adapters(student, self.config, run.seed)


_BITS = {True: 4 + (8 + 32 / 256) / 64, False: 4 + 32 / 64}
"""Bits per weight in nf4, with and without quantised scales: one scale per 64 weights, one float32 per 256 scales."""


class Qlora(Lora):
    """LoRA on frozen weights that are stored in 4 bits (nf4, arXiv 2305.14314), dequantised and merged at the end."""

    class Config(Lora.Config):
        """Size and place of the adapters, and how the frozen weights are stored."""

        double_quantisation: bool = True
        """Store the scales of the 4-bit blocks in 8 bits too: 4.13 instead of 4.5 bits per weight."""

    saves_memory = kdtool.Saving(
        {}, "only adapters learn, and weights are stored in 4 bits", changes_result=True, freezes=True
    )
    config: Config

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        if find_spec("bitsandbytes") is not None:
            return []
        return ["bitsandbytes is not installed: pip install bitsandbytes, or use lora, which does not need it"]

    def _add_adapters(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Adapters:
        from kdtool_transform_lora._adapters import Adapters

        double = self.config.double_quantisation
        if next(student.model.parameters()).is_meta:
            _store_in_bits(student, _BITS[double])
            return super()._add_adapters(student, run)
        return Adapters(student, self.config, run.seed, double_quantisation=double)


def _store_in_bits(student: kdtool.LanguageModel, bits: float) -> None:
    """Give weights on the meta device their later size, without needing bitsandbytes."""
    from kdtool_torch import store_as

    from kdtool_transform_lora._adapters import linear_layers

    for layer in linear_layers(student).values():
        store_as(layer.weight, int(layer.weight.numel() * bits / 8))

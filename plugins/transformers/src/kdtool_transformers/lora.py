"""Adapters in a student: put in before a phase, merged into its weights afterwards, with a check that nothing changed.

Called by `Lora` and `Qlora`. The layers are peft's; which ones, the seed, merging and its check are done here. peft would
merge into 4-bit weights by rounding them to 4 bits again, and into half-precision ones by adding in half precision; here the
sum is made in float32 and rounded once, to the dtype that the student had.

Also the memory that inserting and merging takes, and the card of an adapter that is kept: its base model, its licences, and
the lines that open both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import peft
import torch
from kdtool_torch import give_back_memory, isolated_rng, require_same_logits, stored_bytes, write_safetensors
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kdtool_transformers.card import model_card

_NAME = "default"
"""peft's name for a single adapter."""
_ROWS = 256
"""Rows of a weight that are updated at once."""


class Adapters:
    """The adapters of one student during one phase."""

    def __init__(self, student: kdtool.LanguageModel, config: Any, seed: int, *, in_bits: bool = False) -> None:
        """Freeze the student and put adapters into it; `in_bits`: also store its weights in 4 bits.

        `config` is that of `Lora`.

        Raises:
            UsageError: the targets name no linear layers of this student, or it has adapters already.
        """
        self._student, self._model = student, student.model
        if any(isinstance(module, BaseTunerLayer) for module in self._model.modules()):
            raise kdtool.UsageError("the student has adapters already: take one of lora and qlora in a phase")
        self._learning = {name for name, parameter in self._model.named_parameters() if parameter.requires_grad}
        linear = linear_layers(student)
        targets = list(linear) if config.targets == "all-linear" else _find_named(self._model, config.targets, linear)
        self._targets = targets
        self._quantised: dict[str, torch.dtype] = {}
        if in_bits:
            self._quantise(linear, targets)
        self._config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=targets,
            fan_in_fan_out=isinstance(linear[targets[0]], Conv1D),
            bias="none",
        )
        with isolated_rng(seed):
            self._insert()

    def save(self, folder: Path, run: kdtool.RunInfo) -> None:
        """Write only the adapter, in the form that `peft.PeftModel.from_pretrained` opens, with a card."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = peft.get_peft_model_state_dict(self._model, adapter_name=_NAME)
        write_safetensors(
            {f"base_model.model.{name}": weight.contiguous() for name, weight in weights.items()},
            folder / "adapter_model.safetensors",
        )
        base = getattr(self._student, "base", "") or self._model.config._name_or_path or None
        self._config.base_model_name_or_path = base
        self._config.save_pretrained(str(folder))
        (folder / "README.md").write_text(adapter_card(run, self._student.facts, self._config), encoding="utf-8")

    def merge(self) -> None:
        """Make the student a plain model again that computes what it did with its adapters.

        Raises:
            PluginError: its logits changed by more than rounding.
        """
        with require_same_logits(self._student, "merging the adapters"):
            for name in dict.fromkeys([*self._targets, *self._quantised]):
                self._model.set_submodule(name, self._merge(name))
                give_back_memory()
            del self._model.peft_config
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name in self._learning)

    def _quantise(self, linear: dict[str, Any], targets: list[str]) -> None:
        from kdtool_transformers import nf4

        self._quantised = {name: layer.weight.dtype for name, layer in linear.items() if isinstance(layer, nn.Linear)}
        other = sorted({_leaf(name) for name in {*linear, *targets} - self._quantised.keys()})
        if other:
            raise kdtool.UsageError(
                f"qlora stores torch.nn.Linear in 4 bits; {', '.join(other)} of {type(self._model).__name__} are "
                f"{type(linear[targets[0]]).__name__}: use lora"
            )
        nf4.quantise(self._model, self._quantised)

    def _insert(self) -> None:
        self._model.is_loaded_in_4bit = bool(self._quantised)  # by which peft chooses its layers
        try:
            LoraModel(self._model, self._config, _NAME)
        finally:
            del self._model.is_loaded_in_4bit

    @torch.no_grad()
    def _merge(self, name: str) -> nn.Module:
        layer: Any = self._model.get_submodule(name)
        base: Any = layer.base_layer if isinstance(layer, LoraLayer) else layer
        weight: Tensor = base.weight.data
        if name in self._quantised:
            from kdtool_transformers import nf4

            weight = nf4.dequantise(base)
            base.weight.module = None  # bitsandbytes makes a reference cycle, which would keep the 4 bits in memory
        if layer is not base:
            _add(weight, layer.get_delta_weight(_NAME))
        return _plain(base, weight.to(self._quantised[name])) if name in self._quantised else base


def linear_layers(student: kdtool.LanguageModel) -> dict[str, Any]:
    """Return the layers that adapters go to, by name: linear ones, without the head.

    Raises:
        UsageError: a layer stores its weights in another form, for example in few bits.
    """
    head = student.head.weight
    layers = {
        name: module
        for name, module in student.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module.weight is not head
    }
    for name, module in layers.items():
        if type(module) not in {nn.Linear, Conv1D}:
            raise kdtool.UsageError(
                f"{name} is a {type(module).__name__}, and adapters are merged into plain layers; if another transform of "
                "this phase made it so, give each of the two its own phase, else open the model with all its bits"
            )
    return layers


def _find_named(model: nn.Module, targets: list[str], linear: dict[str, Any]) -> list[str]:
    """Return the full names of the layers that match the recipe's short ones."""
    names: list[str] = []
    for target in targets:
        full = [name for name, _ in model.named_modules() if name == target or name.endswith(f".{target}")]
        fitting = [name for name in full if name in linear]
        if not fitting or len(fitting) < len(full):
            what = (
                "no layer has this name"
                if not full
                else f"this is a {type(model.get_submodule(full[0])).__name__} that takes no adapter (the head and "
                "embeddings do not: they are often one tensor)"
            )
            known = ", ".join(sorted({_leaf(name) for name in linear}))
            raise kdtool.UsageError(f"targets: {target!r}: {what}; linear layers of this student are {known}")
        names.extend(name for name in fitting if name not in names)
    return names


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _add(weight: Tensor, product: Tensor) -> None:
    """Add to a weight in place, in float32, rounded once.

    In place, because its memory may be a mapped file's, which can only be released as a whole.
    """
    for rows, summand in zip(torch.split(weight, _ROWS), torch.split(product, _ROWS), strict=True):
        rows.copy_(rows.float() + summand.float())


def _plain(layer: Any, weight: Tensor) -> nn.Module:
    """Return a layer of 4 bits as it was before the phase, with this weight."""
    with torch.device("meta"):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight, plain.bias = nn.Parameter(weight), layer.bias
    return plain.train(layer.training)


_FLOAT_BYTES = 4


def rewriting_parts(ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
    """Yield the memory for rewriting the student: its weights as they are stored, layer by layer, and the adapters.

    Adapters are inserted in main memory, before training. Mapped pages of the student's file go back to the
    system as its layers are quantised. Adapters are merged on the device that trained.
    The largest layer's product of adapters, and a copy of it, come on top, in float32.
    """
    phase = ahead.phase
    if phase is None or phase.outline is None or phase.facts is None or not ahead.student_bytes:
        return
    weights = ahead.student_bytes
    largest = max((layer.weight.numel() for layer in linear_layers(phase.outline).values()), default=0)
    on_top = _FLOAT_BYTES * phase.facts.trainable + 2 * _FLOAT_BYTES * largest
    opened, merged = f"{phase.stage}: adapters put in", f"{phase.stage}: adapters merged"
    frozen = sum(stored_bytes(weight) for weight in phase.outline.model.parameters() if not weight.requires_grad)
    yield kdtool.Estimate("weights", (opened,), host_bytes=min(weights, frozen))
    yield kdtool.Estimate("adapters and a layer", (opened,), host_bytes=on_top)
    yield kdtool.Estimate("weights", (merged,), compute_bytes=weights)
    yield kdtool.Estimate("adapters and a layer", (merged,), compute_bytes=on_top)


def adapter_card(run: kdtool.RunInfo, student: kdtool.ModelFacts, config: peft.LoraConfig) -> str:
    """Return the adapter's card in Markdown; `config` names its base model."""
    base = str(config.base_model_name_or_path)
    stored = (
        f"This folder contains only the adapter (LoRA, rank {config.r}, alpha {config.lora_alpha}), in PEFT's format; "
        f"its base model is `{base}`."
    )
    use = f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base!r}
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ".")
```"""
    on_hub = "" if not base or Path(base).is_absolute() else base  # hubs refuse a card whose base model is a path
    return model_card(run, student, stored=stored, library="peft", use=use, base=on_hub)

"""The exporter `compressed-tensors`: the trained student in 8 or 4 bits, as a folder for vLLM and transformers.

Opened folders compute with the stored weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import kdtool

from kdtool_export.shared import DescribedExporter, deviation_of, transformers_code

if TYPE_CHECKING:
    import torch
    from kdtool_transformers import TransformersModel
    from torch import Tensor


__all__ = ["CompressedTensors"]
_NAMES = {"w8a8": "w8a8-int8", "w8a16": "w8a16-int8", "w4a16": "w4a16"}
_BYTES = {"w8a8": 1.0, "w8a16": 1 + 2 / 32, "w4a16": 0.5 + 2 / 32}
"""Bytes of a weight at most, with its share of a scale."""
_LIMIT = {"w8a8": 0.35, "w8a16": 0.07, "w4a16": 1.2}
"""Standard deviations by which logits may differ from the student's; the README has the measurements they follow from."""
_EXACT = 1e-3
_NOTE = "  # needs compressed-tensors, too"


class CompressedTensors(DescribedExporter):
    """Writes a folder with linear layers in 8 or 4 bits, for vLLM and `transformers.AutoModelForCausalLM`."""

    extra = "compressed-tensors"

    class Config(kdtool.Config):
        """Settings of the exporter `compressed-tensors`."""

        scheme: Literal["w8a8", "w8a16", "w4a16"] = "w8a8"
        """`w8a8`: int8 weights with a scale per row, inputs rounded to int8 per token as the model runs. `w8a16`, `w4a16`:
        packed int8 or int4 weights with a scale for 128 of them, or for 64 or 32 where 128 does not divide the widths."""
        dtype: Literal["bfloat16", "float16"] = "bfloat16"
        """Precision of scales, embeddings, the head and norms; GPUs before Ampere compute only in `float16`."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        student = ahead.models.get(ahead.student)
        if student is not None:
            kept = student.vocabulary * student.hidden * (1 if student.tied else 2)
            size = 2 * kept + int(_BYTES[self.config.scheme] * (student.parameters - kept))
            yield kdtool.Estimate("exported student", ("exports",), 4 * student.parameters + size)
            yield kdtool.Estimate("exported student", disk_bytes=size)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a student without layers that the scheme can quantise.

        Raises:
            UsageError: there are none.
        """
        if run.untrained is None:
            return
        from kdtool_transformers import open_config, without_weights

        from kdtool_export.compressed_tensors.quantisation import split_layers

        split_layers(without_weights(open_config(run.untrained, offline=True)), self.config.scheme)

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        """Write the student, and check that transformers computes what the rounded student does.

        Raises:
            UsageError: the scheme can quantise none of the student's layers.
            PluginError: the folder contains another model, or rounding moves the logits beyond the scheme's limit.
        """
        import torch
        from kdtool_transformers import open_model
        from kdtool_transformers.card import model_card, write_notices

        from kdtool_export.compressed_tensors.quantisation import quantise, split_layers, write

        scheme, dtype = self.config.scheme, getattr(torch, self.config.dtype)
        folder = run.folder / "compressed-tensors"
        model = open_model(trained, dtype=torch.float32, offline=True)
        layers, group, left_out = split_layers(model.model, scheme)
        if left_out:
            run.say(f"compressed-tensors: kept in {self.config.dtype}, as 32 does not divide their width: {left_out}")
        facts, rows = model.facts, _draw_rows(model)
        expected = _logits(model, rows)
        quantise(model.model, layers, scheme, group, dtype)
        rounded = _logits(model, rows)
        write(model, layers, dtype, folder)
        del model, layers  # one model at a time is in memory
        _require_same(folder, rows, rounded)
        parity = _require_close(rounded, expected, scheme)
        write_notices(folder, run)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        scales = f"a scale for {group} weights" if group else "a scale per row, inputs rounded to int8 per token"
        stored = f"Linear layers in {_NAMES[scheme]} ({scales}), the rest in {self.config.dtype}; {parity}."
        use = f"```console\nvllm serve .\n```\n\n```python\n{transformers_code('.', _NOTE)}```"
        card = model_card(run, facts, stored=stored, library="transformers", use=use)
        how = transformers_code("{path}", _NOTE)
        return kdtool.Artifact(folder, "compressed-tensors", size, _NAMES[scheme], how_to_use=how, card=card)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Open a folder whose config.json names the format; in float32 where bfloat16 is slower than that."""
        if subject.role != "artifact" or subject.path is None or not is_compressed(subject.path):
            return None
        import torch
        from kdtool_torch import compute_dtype, pick_device
        from kdtool_transformers import TransformersRuntime

        device = pick_device()
        widened = device.type == "cpu" and compute_dtype("auto", device) == torch.float32
        dtype = torch.float32 if widened else None
        return TransformersRuntime(open_compressed(subject.path, dtype=dtype, device=device))


def _require_same(folder: Path, rows: Sequence[Tensor], rounded: Tensor) -> None:
    """Refuse a folder whose logits in transformers differ from the rounded student's, shape (tokens, vocabulary).

    Raises:
        PluginError: they differ.
    """
    import torch

    deviation = deviation_of(_logits(open_compressed(folder, dtype=torch.float32), rows), rounded)
    if not deviation <= _EXACT:
        raise kdtool.PluginError(
            f"compressed-tensors: the written folder differs from the rounded student: logits deviate by {deviation:.2g} "
            f"standard deviations (allowed {_EXACT:g}); export with safetensors, and report the student's family"
        )


def _require_close(rounded: Tensor, expected: Tensor, scheme: str) -> str:
    """Return the card's sentence on how far the rounded student is from the trained one.

    Raises:
        PluginError: farther than the scheme's limit.
    """
    deviation = deviation_of(rounded, expected)
    agreement = float((rounded.argmax(-1) == expected.argmax(-1)).float().mean())
    if not deviation <= _LIMIT[scheme]:
        raise kdtool.PluginError(
            f"exporters.compressed-tensors.scheme: in {scheme} logits deviate from the trained student's by {deviation:.2g} "
            f"standard deviations (allowed {_LIMIT[scheme]:g}); take w8a8, train with the transform qat, or use safetensors"
        )
    return (
        f"logits deviate from the trained model's by {deviation:.1e} standard deviations, and {agreement:.0%} of the most "
        f"likely tokens agree, on {len(expected)} tokens that the trained model drew"
    )


def _draw_rows(model: kdtool.LanguageModel) -> list[Tensor]:
    """Return rows of tokens that the model samples itself after a random first token, at most 33 each."""
    import torch

    count, length = 4, 32
    first = torch.randint(model.head.vocabulary, (count, 1), generator=torch.Generator().manual_seed(0)).tolist()
    drawn = model.generate(first, [length] * count, 1.0, range(count))
    return [torch.tensor([begin + rest]) for begin, rest in zip(first, drawn, strict=True)]


def _logits(model: kdtool.LanguageModel, rows: Sequence[Tensor]) -> Tensor:
    """Return a model's logits at all tokens of rows, shape (tokens, vocabulary), in float32."""
    import torch

    with torch.no_grad():
        logits = [model.model(input_ids=row).logits[0, :, : model.head.vocabulary].float() for row in rows]
    return torch.cat(logits)


def is_compressed(folder: Path) -> bool:
    """Return whether a folder contains a model in the compressed-tensors format."""
    from kdtool_transformers import read_json

    config = folder / "config.json"
    quantisation = read_json(config).get("quantization_config") if config.is_file() else None
    return isinstance(quantisation, dict) and quantisation.get("quant_method") == "compressed-tensors"


def open_compressed(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> TransformersModel:
    """Open a folder with its weights decompressed to `dtype` (None: as stored); in w8a8 it rounds inputs of layers, too.

    transformers would decompress in the model's first `forward`, which kdtool's backbone does not call.
    """
    from compressed_tensors.compressors.base import decompress_module
    from kdtool_transformers import open_model

    with redirect_stderr(StringIO()):  # the library's progress bars, which no setting turns off
        model = open_model(folder, dtype=dtype, device=device, offline=True)
    causal = model.model
    for module in causal.modules():
        if hasattr(module, "quantization_scheme"):
            decompress_module(module)
            for name in ("weight_scale", "weight_shape"):  # neither computes from here on, nor counts as parameters
                module._parameters.pop(name, None)
    causal.hf_quantizer.compressor.remove_decompression_hook(causal)
    return model

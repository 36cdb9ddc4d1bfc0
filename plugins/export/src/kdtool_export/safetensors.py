"""The exporter `safetensors`: the trained student as a folder that plain transformers opens.

It writes weights, configuration and tokenizer, describes them in a model card, and opens what it wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import kdtool

from kdtool_export.compressed_tensors import is_compressed
from kdtool_export.shared import DescribedExporter, deviation_of, drawn_logits, transformers_code

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 0.1}


class Safetensors(DescribedExporter):
    """Writes a folder for `transformers.AutoModelForCausalLM` (and what reads that format: vLLM, llama.cpp, candle)."""

    class Config(kdtool.Config):
        """Settings of the exporter `safetensors`."""

        dtype: Literal["bfloat16", "float16", "float32", "same"] = "bfloat16"
        """Precision of the weights. `bfloat16` halves the trained float32 weights and keeps their range, so that nothing
        overflows; it is what models are published and served in. `same`: as trained."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        student = ahead.models.get(ahead.student)
        if student is not None:
            from kdtool_torch import itemsize

            trained = ahead.student_bytes // student.parameters
            size = trained if self.config.dtype == "same" else itemsize(self.config.dtype)
            # One model at a time, in its own dtype; rounded weights are compared in the trained model's dtype.
            yield kdtool.Estimate("exported student", ("exports",), max(trained, size) * student.parameters)
            yield kdtool.Estimate("exported student", disk_bytes=size * student.parameters)

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        import torch
        from kdtool_transformers import open_model
        from kdtool_transformers.card import model_card, write_notices

        folder = run.folder / "safetensors"
        model = open_model(trained, offline=True)
        facts, was, expected = model.facts, model.model.dtype, drawn_logits(model.model, model.head.vocabulary)
        dtype = was if self.config.dtype == "same" else getattr(torch, self.config.dtype)
        rounded, rounds = expected, torch.promote_types(was, dtype) != dtype
        if dtype != was:
            del model  # one model at a time is in memory, here and below
            model = open_model(trained, dtype=dtype, offline=True)
        model.save(folder)
        if rounds:
            for tensor in (*model.model.parameters(), *model.model.buffers()):
                tensor.data = tensor.data.to(was) if tensor.dtype == dtype else tensor.data
            rounded = drawn_logits(model.model, model.head.vocabulary)
        del model
        stored, open_in = self._compare(run, expected, rounded, folder, was, dtype)
        write_notices(folder, run)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        use = f"```python\n{transformers_code('.', dtype=open_in)}```"
        card = model_card(run, facts, stored=stored, library="transformers", use=use)
        how = transformers_code("{path}", dtype=open_in)
        return kdtool.Artifact(folder, "safetensors", size, how_to_use=how, card=card)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Open a folder with safetensors; in float32, which represents any stored value, if bfloat16 is slower."""
        import torch
        from kdtool_torch import compute_dtype, pick_device, widen
        from kdtool_transformers import TransformersRuntime, open_model

        path = subject.path
        if subject.role != "artifact" or path is None or not any(path.glob("*.safetensors")) or is_compressed(path):
            return None
        device = pick_device()
        model = open_model(path, device=device, offline=True)
        if device.type == "cpu" and compute_dtype("auto", device) == torch.float32:
            widen(model.model)
        return TransformersRuntime(model)

    def _compare(
        self, run: kdtool.RunInfo, expected: Tensor, rounded: Tensor, folder: Path, was: torch.dtype, dtype: torch.dtype
    ) -> tuple[str, str]:
        """Return the card's sentence on how far the written model is from the trained one, and the dtype to open it in.

        The file is compared with the same weights in memory, in the dtype of the trained ones, usually float32. Rounding of
        weights and of computation comes on top: it is not a fault of the file, but users must know it.

        Raises:
            PluginError: the written model differs.
        """
        import torch
        from kdtool_transformers import open_model

        name = _name(dtype)
        deviation = _deviation(rounded, open_model(folder, dtype=was, offline=True))
        if not deviation <= _TOLERANCE[_name(was)]:
            raise kdtool.PluginError(
                f"the exported model differs from the trained one: logits of {folder} deviate by {deviation:.2g} standard "
                f"deviations from those of the same weights (allowed {_TOLERANCE[_name(was)]:g}); export again, with "
                "dtype: same if it stays so"
            )
        computed = moved = deviation_of(rounded, expected)
        if dtype != was == torch.float32:
            computed = _deviation(expected, open_model(folder, offline=True))
        sentence = f"Weights in {name}; logits deviate from the trained model's by {moved:.1e} standard deviations"
        most, limit = max(computed, moved), _TOLERANCE[name]
        if most <= limit:
            return f"{sentence}.", name
        how = "rounded to" if moved > limit else "computed in"
        run.say(f"safetensors: {how} {name}, the student's logits deviate by {most:.2g} standard deviations")
        sentence += f", and by {computed:.1e} if they are computed in {name}: open it in float32, as below."
        return sentence, _name(torch.float32)


def _deviation(expected: Tensor, written: kdtool.LanguageModel) -> float:
    """Return how far the logits of a model are from those expected, in their standard deviations."""
    return deviation_of(drawn_logits(written.model, written.head.vocabulary), expected)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

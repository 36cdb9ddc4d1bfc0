"""Exporter plugin `safetensors`: the trained student as a folder that plain transformers opens.

`Safetensors` writes weights, configuration and tokenizer, describes them in a model card, and opens what it wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import kdtool

__all__ = ["Safetensors"]

_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 0.1}


class Safetensors(kdtool.Exporter):
    """Writes a folder for `transformers.AutoModelForCausalLM` (and what reads that format: vLLM, llama.cpp, candle)."""

    class Config(kdtool.Config):
        """Settings of the exporter `safetensors`."""

        dtype: Literal["bfloat16", "float16", "float32", "same"] = "bfloat16"
        """Precision of the weights. `bfloat16` halves the trained float32 weights and keeps their range, so that nothing
        overflows; it is what models are published and served in. `same`: as trained."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.Prospect) -> Iterator[kdtool.Estimate]:
        student = ahead.models.get(ahead.student)
        if student is not None:
            size = student.parameters * (4 if self.config.dtype in ("float32", "same") else 2)
            yield kdtool.Estimate("exported student", ("exports",), 4 * student.parameters + 2 * size)
            yield kdtool.Estimate("exported student", disk_bytes=size)

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        import torch
        from kdtool_transformers import model_card, open_model, write_notices

        folder = run.folder / "safetensors"
        original = open_model(trained, offline=True)
        dtype = original.model.dtype if self.config.dtype == "same" else getattr(torch, self.config.dtype)
        converted = open_model(trained, dtype=dtype, offline=True)
        converted.save(folder)
        del converted
        stored = self._compared(run, original, folder, str(dtype).removeprefix("torch."))
        write_notices(folder, run)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        use = f"```python\n{_how_to_use('.')}```"
        card = model_card(run, original.facts, stored=stored, library="transformers", use=use)
        return kdtool.Artifact(folder, "safetensors", size, how_to_use=_how_to_use("{path}"), card=card)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Open a folder with safetensors; in float32, which holds any stored value, where bfloat16 is slower than that."""
        import torch
        from kdtool_transformers import compute_dtype, open_runtime, pick_device

        path = subject.path
        if subject.role != "artifact" or path is None or not any(path.glob("*.safetensors")):
            return None
        device = pick_device()
        wide = device.type == "cpu" and compute_dtype("auto", device) == torch.float32
        return open_runtime(path, dtype=torch.float32 if wide else None, device=device, offline=True)

    def _compared(self, run: kdtool.RunInfo, original: kdtool.LanguageModel, folder: Path, dtype: str) -> str:
        """Say in the card's words how far the written model is from the trained one; refuse one that is another.

        Its weights are judged in float32. Many computations in few bits add to their rounding, which is no fault of the
        file, but its user has to know.
        """
        import torch
        from kdtool_transformers import open_model

        written = open_model(folder, offline=True)
        computed = _deviation(original, written)
        written.model.to(torch.float32)
        deviation, limit = _deviation(original, written), _TOLERANCE[dtype]
        if not deviation <= limit:
            raise kdtool.PluginError(
                f"the exported model differs from the trained one: logits deviate by {deviation:.2g} standard deviations "
                f"(allowed {limit:g}) with weights in {dtype}; export with dtype: float32"
            )
        said = f"Weights in {dtype}; logits deviate from the trained model's by {deviation:.1e} standard deviations"
        if computed <= limit:
            return f"{said}."
        run.say(f"safetensors: computed in {dtype}, the student's logits deviate by {computed:.2g} standard deviations")
        return f"{said}, and by {computed:.1e} where they are computed in {dtype}: open it with `dtype=torch.float32`."


def _deviation(original: kdtool.LanguageModel, written: kdtool.LanguageModel) -> float:
    """Return how far apart logits are on drawn tokens, in standard deviations of the original's."""
    import torch

    vocabulary = original.head.vocabulary
    ids = torch.randint(vocabulary, (1, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = (
            model.model(input_ids=ids).logits[0, :, :vocabulary].float() for model in (original, written)
        )
    return float((found - expected).square().mean().sqrt() / expected.std())


def _how_to_use(folder: str) -> str:
    """Return lines of Python that complete a piece of code with the model in `folder`."""
    return f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder!r}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer("def fibonacci(n):\\n", return_tensors="pt")
outputs = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
"""

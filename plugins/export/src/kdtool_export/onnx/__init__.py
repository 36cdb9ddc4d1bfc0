"""The exporter `onnx`: the trained student as a graph for ONNX Runtime.

transformers writes the graph, which is compared with the student, and opened for measurement inside transformers' own
generation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import kdtool

from kdtool_export.shared import DescribedExporter, deviation_of, drawn_logits

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["ONNX"]
_BYTES = {"float32": 4.0, "int8": 1.1}
_TOLERANCE = {"float32": 1e-3, "int8": 0.3}
"""Greatest root mean square deviation of logits, in their standard deviations. SmolLM2-135M deviates by 0.06 in int8."""


class ONNX(DescribedExporter):
    """Writes a folder for ONNX Runtime: one graph with a key-value cache, in float32 or INT8, and the tokenizer."""

    extra = "onnx"

    class Config(kdtool.Config):
        """Settings of the exporter `onnx`."""

        dtype: Literal["float32", "int8"] = "float32"
        """Weights. `int8`: matrices in 8 bits, 64 numbers of a row to a scale; little more than a quarter of the size."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        student = ahead.models.get(ahead.student)
        if student is not None:
            # The student, the traced graph, and the one that is optimised.
            yield kdtool.Estimate("exported student", ("exports",), 12 * student.parameters)
            yield kdtool.Estimate("exported student", disk_bytes=int(_BYTES[self.config.dtype] * student.parameters))

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        """Write the graph, and compare its logits with the student's.

        Raises:
            PluginError: transformers cannot write the student as a graph, or the graph computes something else.
        """
        from kdtool_torch import widen
        from kdtool_transformers import open_model
        from kdtool_transformers.card import model_card, write_notices

        folder = run.folder / "onnx"
        student = open_model(trained, offline=True)
        widen(student.model)
        facts, expected = student.facts, drawn_logits(student.model, student.tokenizer.vocabulary)
        self._write(student.model, folder)
        student.tokenizer.inner.save_pretrained(folder)
        del student
        deviation = self._require_same(folder, expected)
        write_notices(folder, run)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        deviates = f"logits deviate from the trained model's by {deviation:.1e} standard deviations"
        stored = f"Weights in {self.config.dtype}; {deviates}."
        use = f"```python\n{_how_to_use('.')}```"
        card = model_card(run, facts, stored=stored, library="onnxruntime", use=use)
        quantisation = "int8" if self.config.dtype == "int8" else ""
        return kdtool.Artifact(folder, "onnx", size, quantisation, _how_to_use("{path}"), card)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        path = subject.path
        if subject.role != "artifact" or path is None or not (path / "model.onnx").is_file():
            return None
        from kdtool_export.onnx.runtime import OnnxRuntime

        return OnnxRuntime(path)

    def _write(self, model: object, folder: Path) -> None:
        from kdtool_export.onnx.graph import write_graph

        try:
            write_graph(model, folder, int8=self.config.dtype == "int8")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise kdtool.PluginError(
                f"onnx: transformers cannot write {type(model).__name__} as a graph ({reason}); export safetensors or gguf"
            ) from error

    def _require_same(self, folder: Path, expected: Tensor) -> float:
        """Return how far the graph's logits are from the student's, in their standard deviations."""
        from kdtool_export.onnx.runtime import OnnxModel

        logits = drawn_logits(OnnxModel(folder), expected.shape[-1])
        deviation = deviation_of(logits, expected)
        limit = _TOLERANCE[self.config.dtype]
        if not deviation <= limit:
            raise kdtool.PluginError(
                f"onnx: the graph differs from the student: logits deviate by {deviation:.2g} standard deviations (allowed "
                f"{limit:g}) in {self.config.dtype}"
                + ("; export with dtype: float32" if self.config.dtype == "int8" else "")
            )
        return deviation


def _how_to_use(folder: str) -> str:
    """Return lines of Python that complete a piece of code with only ONNX Runtime and a tokenizer."""
    return f"""\
import numpy as np, onnxruntime
from tokenizers import Tokenizer

folder = {folder!r}
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
session = onnxruntime.InferenceSession(folder + "/model.onnx")
ids = tokenizer.encode("def fibonacci(n):\\n").ids
names = [one.name for one in session.get_inputs() if ".layers." in one.name]
shapes = [(1, int(one.shape[1]), 0, int(one.shape[3])) for one in session.get_inputs() if ".layers." in one.name]
cache, new = [np.zeros(shape, np.float32) for shape in shapes], ids
for _ in range(64):
    seen = cache[0].shape[2]
    positions = range(seen, seen + len(new))
    step = {{"input_ids": [new], "position_ids": [positions], "attention_mask": [[1] * positions.stop]}}
    feed = {{name: np.array(value, np.int64) for name, value in step.items()}} | dict(zip(names, cache))
    logits, *cache = session.run(None, feed)
    new = [int(logits[0, -1].argmax())]
    ids += new
print(tokenizer.decode(ids))
"""

"""Exporter plugin `onnx`: the trained student as a graph for ONNX Runtime.

`ONNX` has transformers write the graph, compares it with the student, and opens it. `OnnxModel` runs a graph inside
transformers' own generation.
"""

from __future__ import annotations

from kdtool_exporter_onnx._exporter import ONNX

__all__ = ["ONNX"]

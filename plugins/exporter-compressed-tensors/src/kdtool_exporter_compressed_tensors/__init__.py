"""Exporter plugin `compressed-tensors`: the trained student in 8 or 4 bits, as a folder for vLLM and transformers.

`_exporter` writes and measures the folder, `_quantising` rounds weights, `_opening` opens such folders.
"""

from __future__ import annotations

from kdtool_exporter_compressed_tensors._exporter import CompressedTensors

__all__ = ["CompressedTensors"]

"""Exporter plugin `gguf`: writes the trained student as one file for llama.cpp, and opens GGUF files for measurement.

`GGUF` writes and opens files. `_runtime` answers, streams and scores by processes of llama.cpp (`_server` and `_decoder`);
`_checking` compares a written file with the student. `GGUFGrid` trains with a file's weights (`_grid`).
"""

from __future__ import annotations

from kdtool_exporter_gguf._exporter import GGUF
from kdtool_exporter_gguf._transform import GGUFGrid

__all__ = ["GGUF", "GGUFGrid"]

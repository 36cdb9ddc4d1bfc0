"""Exporter plugin `gguf`: writes the trained student as one file for llama.cpp, and opens GGUF files for measurement.

`GGUF` writes and opens files. `_runtime` queries llama.cpp in a separate process (`_server`, `_process`) and scores text
(`_scoring`); `_checking` compares a written file with the student.
"""

from __future__ import annotations

from kdtool_exporter_gguf._exporter import GGUF

__all__ = ["GGUF"]

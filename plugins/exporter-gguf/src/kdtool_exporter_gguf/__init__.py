"""Exporter plugin `gguf`: the trained student as one file for llama.cpp, and any GGUF file as something to measure.

`GGUF` writes and opens. What it opens is a `_runtime`, which asks llama.cpp in a process of its own (`_server`, `_process`)
and has it score text (`_scoring`); `_checking` compares a written file with the student.
"""

from __future__ import annotations

from kdtool_exporter_gguf._exporter import GGUF

__all__ = ["GGUF"]

"""Exporter plugin `gguf`: writes the trained student as one file for llama.cpp, and opens GGUF files for measurement.

`GGUF` writes and opens files. `_runtime` answers, streams and scores by processes of llama.cpp (`_server` and `_decoder`);
`_checking` compares a written file with the student.
"""

from __future__ import annotations

from kdtool_exporter_gguf._exporter import GGUF

__all__ = ["GGUF"]

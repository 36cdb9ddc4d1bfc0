"""Python files: the interpreter's own standard library, or a folder.

`PythonSource` is the corpus that recipes call `python-source`. `_files` finds and filters files; each becomes an
example, or several (`_pairs`). Hashes of a file's path determine its position and its split. Nothing is downloaded.
"""

from __future__ import annotations

from kdtool_corpus_python_source._corpus import PythonSource

__all__ = ["PythonSource"]

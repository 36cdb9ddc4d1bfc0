"""Python files: the interpreter's own standard library, or a folder.

`PythonSource` is the corpus that recipes call `python-source`. Files are found and filtered in `_files`; each becomes
an example, or several (`_pairs`), in an order and with a split that follow from hashes of its path. Nothing is downloaded.
"""

from __future__ import annotations

from kdtool_corpus_python_source._corpus import PythonSource

__all__ = ["PythonSource"]

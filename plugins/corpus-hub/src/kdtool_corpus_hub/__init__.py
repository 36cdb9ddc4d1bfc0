"""A data set of the Hugging Face hub as a stream, or local data files.

`Hub` is the corpus that recipes call `hub`. Where records are and how they are read is `kdtool_datasets`'s; columns
become examples in `_columns`, each with a split.
"""

from __future__ import annotations

from kdtool_corpus_hub._corpus import Hub

__all__ = ["Hub"]

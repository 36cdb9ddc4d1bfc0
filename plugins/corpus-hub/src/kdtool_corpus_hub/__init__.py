"""A dataset of the Hugging Face Hub as a stream, or local data files.

`Hub` is the corpus that recipes call `hub`. `kdtool_datasets` locates and reads the records, `_columns` turns their columns
into examples, each with a split.
"""

from __future__ import annotations

from kdtool_corpus_hub._corpus import Hub

__all__ = ["Hub"]

"""Instruction data that a teacher writes: tasks with answers, in six programming languages.

`Instruct` is the corpus that recipes call `instruct`. `_cells` computes the quotas, `_drawing` and `_requests` make
requests, `_generation` asks and judges in rounds, `_trial` runs tests, `_rows` turns accepted answers into rows and pairs,
`_record` writes the files that `kdtool data` shows.
"""

from __future__ import annotations

from kdtool_corpus_instruct._corpus import Instruct

__all__ = ["Instruct"]

"""Execution feedback: programs of a teacher that passed their problems' tests, as text to learn from.

`Verified` is the corpus that recipes call `verified`. `_problems` reads the problems of another corpus, `_asking` asks the
teacher, `_attempts` has its programs run and says which are learned from, `_telling` what came of them all. Answers and
verdicts are on disk before the next one counts: a killed run repeats none.
"""

from __future__ import annotations

from kdtool_corpus_verified._corpus import Verified

__all__ = ["Verified"]

"""Execution feedback: a teacher's programs that pass the tests of their problems, as training text.

`Verified` is the corpus `verified` of recipes. `_answers` asks the teacher, `_attempts` runs its programs and selects which
to train on, and `_summary` reports the outcome. Each answer and verdict is on disk before the next one counts: a resumed run
repeats none.
"""

from __future__ import annotations

from kdtool_corpus_verified._corpus import Verified

__all__ = ["Verified"]

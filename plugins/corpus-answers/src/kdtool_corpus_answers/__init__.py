"""Teachers' answers to prompts, as text to learn from.

`Answers` is the corpus that recipes call `answers`. `_prompts` reads the prompts, `_routing` distributes them if several
teachers answer. `SelfSamples` is `self`, in which the untrained student answers. Every answer is stored
as soon as it arrives, so a run that resumes after a kill asks nothing twice.
"""

from __future__ import annotations

from kdtool_corpus_answers._corpus import Answers
from kdtool_corpus_answers._self_samples import SelfSamples

__all__ = ["Answers", "SelfSamples"]

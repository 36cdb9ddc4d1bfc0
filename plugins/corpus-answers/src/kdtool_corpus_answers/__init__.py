"""Teachers' answers to prompts, as text to learn from.

`Answers` is the corpus that recipes call `answers`. `_prompts` reads the prompts, `_routing` shares them out where several
teachers answer. Every answer is kept from the moment that it is there, so that a killed run asks nothing twice.
"""

from __future__ import annotations

from kdtool_corpus_answers._corpus import Answers

__all__ = ["Answers"]

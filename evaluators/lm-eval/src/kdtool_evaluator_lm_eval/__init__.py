"""Tasks of lm-evaluation-harness (Gao et al., EleutherAI) on the subjects of a run.

`LMEval` is the evaluator that recipes call `lm-eval`. The harness makes the requests and scores the replies (`_tasks`); the
opened subject answers them, and each document's score is an item of a measurement (`_scores`).
"""

from __future__ import annotations

from kdtool_evaluator_lm_eval._evaluator import LMEval

__all__ = ["LMEval"]

"""Losses balanced against each other while they train.

Recipes name the classes: `uncertainty`, `gradnorm`, `on-metric`. The plain functions `uncertainty_step` and `gradnorm_step`
serve any training loop. All begin with the recipe's weights (every factor 1) and go by the figures of the last step; what
they learned is in the phase's checkpoints. Only numbers are handled, so importing this costs nothing.
"""

from __future__ import annotations

from kdtool_weighting_balance._gradnorm import gradnorm_step
from kdtool_weighting_balance._uncertainty import uncertainty_step
from kdtool_weighting_balance._weightings import GradNorm, OnMetric, Uncertainty

__all__ = ["GradNorm", "OnMetric", "Uncertainty", "gradnorm_step", "uncertainty_step"]

"""Transforms that need nothing besides the model: `freeze` and `gradient-checkpointing`."""

from __future__ import annotations

from kdtool_transforms._freeze import Freeze
from kdtool_transforms._gradient_checkpointing import GradientCheckpointing

__all__ = ["Freeze", "GradientCheckpointing"]

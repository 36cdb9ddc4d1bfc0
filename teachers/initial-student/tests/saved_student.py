"""A student that is opened from a folder."""

from __future__ import annotations

from pathlib import Path

import kdtool
from kdtool_transformers import CausalStudent, open_model, open_tokenizer

__all__ = ["Saved"]


class Saved(CausalStudent):
    """A student that is opened from a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None)
        self.folder = folder

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return open_tokenizer(self.folder, offline=True)

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        return self.kdtool_build_student(run)

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        return open_model(self.folder, offline=True)

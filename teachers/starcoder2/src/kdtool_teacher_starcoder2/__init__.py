"""Teacher plugin `starcoder2`: StarCoder2 of 3, 7 and 15 billion parameters.

`StarCoder2` defines the model and its licence; all else is
`kdtool_transformers.PublishedTeacher`.
"""

from __future__ import annotations

from typing import Literal

from kdtool_transformers import PublishedTeacher, PublishedTeacherConfig
from kdtool_transformers.card import known_terms

__all__ = ["StarCoder2"]


class StarCoder2(PublishedTeacher):
    """A StarCoder2 (sliding-window attention, 49,152 tokens, context 16,384): completes code and infills."""

    class Config(PublishedTeacherConfig):
        """Settings of the teacher `starcoder2`."""

        size: Literal["3B", "7B", "15B"] = "3B"
        """Size of the published model. Not used with own `weights`."""

    config: Config
    licence_terms = known_terms("bigcode-openrail-m")

    def hub_name(self) -> str:
        return f"bigcode/starcoder2-{self.config.size.lower()}"

"""Teacher plugin `codellama`: Code Llama of 7, 13 and 34 billion parameters, as base, Python and Instruct model.

`CodeLlama` defines the model, its prompts and its licence; all else is `kdtool_transformers.PublishedTeacher`.
"""

from __future__ import annotations

from typing import Literal

from kdtool_transformers import CODE_LLAMA, PublishedTeacher, PublishedTeacherConfig
from kdtool_transformers.card import known_terms

__all__ = ["CodeLlama"]


class CodeLlama(PublishedTeacher):
    """A Code Llama (context 16,384; 32,016 tokens if it was trained for infilling, else 32,000)."""

    class Config(PublishedTeacherConfig):
        """Settings of the teacher `codellama`."""

        size: Literal["7B", "13B", "34B"] = "7B"
        """Size of the published model. Not used with own `weights`."""
        variant: Literal["base", "python", "instruct"] = "base"
        """Tuning of the model: none, Python, or instructions (prompts are wrapped in [INST] marks)."""

    config: Config
    licence_terms = known_terms("llama2")
    answer_ends = (CODE_LLAMA.end,)

    def hub_name(self) -> str:
        variant = {"base": "", "python": "-Python", "instruct": "-Instruct"}[self.config.variant]
        return f"codellama/CodeLlama-{self.config.size.lower()}{variant}-hf"

    def render_prompt(self, prompt: str) -> str:
        return f"[INST] {prompt.strip()} [/INST]" if self.config.variant == "instruct" else prompt

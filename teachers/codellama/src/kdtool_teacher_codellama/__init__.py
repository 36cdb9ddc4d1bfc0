"""Teacher plugin `codellama`: Code Llama of 7, 13 and 34 billion parameters, as base, Python and Instruct model.

`CodeLlama` says which model, how it is asked, and its licence; all else is `kdtool_transformers.PublishedTeacher`.
`published.json` holds the configurations as Meta published them.
"""

from __future__ import annotations

from typing import Literal

import kdtool
from kdtool_transformers import (
    GAP,
    DtypeName,
    Infilling,
    Published,
    PublishedTeacher,
    PublishedTeacherConfig,
    read_published,
)

__all__ = ["CodeLlama"]


class CodeLlama(PublishedTeacher):
    """A Code Llama (context 16,384; 32,016 tokens where it can fill gaps, else 32,000)."""

    class Config(PublishedTeacherConfig):
        """Settings of the teacher `codellama`."""

        size: Literal["7B", "13B", "34B"] = "7B"
        """Which of the family. Own `weights` have a size of their own."""
        variant: Literal["base", "python", "instruct"] = "base"
        """What it was tuned for: nothing, Python, or following instructions: then prompts are wrapped in [INST] marks."""
        dtype: DtypeName = "bfloat16"
        """Precision of weights and computation. `auto`: bfloat16 where a short measurement finds it faster, else float32."""

    config: Config
    # sentencepiece writes the first word of a text with a space before it, also behind the mark
    infilling = Infilling("▁<PRE>", "▁<SUF>", "▁<MID>", behind_prefix=" ")
    answer_ends = ("▁<EOT>",)

    def published(self) -> Published:
        return read_published(__name__)[f"{self.config.size}-{self.config.variant}"]

    def written(self, prompt: str) -> str:
        if self.config.variant == "instruct" and GAP not in prompt:
            return f"[INST] {prompt.strip()} [/INST]"
        return super().written(prompt)

    def kdtool_acknowledge(self) -> kdtool.Terms:
        return kdtool.Terms(
            "Llama 2 Community License",
            url="https://ai.meta.com/llama/license/",
            restrictions=(
                "neither the model nor its outputs may be used to improve another large language model, unless that is "
                "Llama 2 or a derivative of it: take a student that is cut from this teacher",
                "a copy of the licence and its notice (Llama 2 is licensed under the LLAMA 2 Community License, Copyright "
                "(c) Meta Platforms, Inc. All Rights Reserved.) go with the model and what is made of it",
                "Meta's names and marks may only be used to describe and redistribute the model: name a student otherwise",
                "who had more than 700 million monthly users in the month before the release needs a licence of their own",
                "the acceptable use policy applies: https://ai.meta.com/llama/use-policy/",
            ),
        )

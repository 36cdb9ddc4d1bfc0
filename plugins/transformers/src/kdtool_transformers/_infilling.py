"""Infilling: prompts for the code missing between two pieces, and training on it. Light.

Knows the marks of every family and their positions; teachers name theirs, tokenizers find theirs by its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CODE_LLAMA", "FAMILIES", "GAP", "STARCODER", "Infilling"]

GAP = "<FILL_ME>"
"""Mark of missing code in a prompt, for all models; it is that of CodeLlama's tokenizer."""


@dataclass(frozen=True)
class Infilling:
    """A family's marks before, after and between: prefix-suffix-middle order (arXiv 2207.14255).

    `behind_prefix` stands between the mark and the code before the gap. `end` is the token that ends what was missing; ""
    is the end of the text.
    """

    prefix: str
    suffix: str
    middle: str
    behind_prefix: str = ""
    end: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """The tokens that must be in the vocabulary."""
        return tuple(mark for mark in (self.prefix, self.suffix, self.middle, self.end) if mark)

    def render(self, before: str, after: str) -> str:
        """Return the prompt that makes the model generate the code between `before` and `after`."""
        return f"{self.prefix}{self.behind_prefix}{before}{self.suffix}{after}{self.middle}"

    def pieces(self, before: str, middle: str, after: str, suffix_first: bool) -> list[tuple[str, str]]:
        """Return a whole text with its middle last, as (mark or "", text behind it): each is encoded on its own.

        With `suffix_first` in the order that the paper calls SPM, variant 2: the code before the gap and the middle are not
        parted by a mark.
        """
        code = f"{self.behind_prefix}{before}"
        if suffix_first:
            return [(self.prefix, ""), (self.suffix, after), (self.middle, code), ("", middle)]
        return [(self.prefix, code), (self.suffix, after), (self.middle, middle)]


STARCODER = Infilling("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
CODE_LLAMA = Infilling("▁<PRE>", "▁<SUF>", "▁<MID>", behind_prefix=" ", end="▁<EOT>")
"""sentencepiece writes the first word of a text with a space before it, also behind the mark."""
FAMILIES = (
    STARCODER,
    CODE_LLAMA,
    Infilling("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder
    Infilling("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)

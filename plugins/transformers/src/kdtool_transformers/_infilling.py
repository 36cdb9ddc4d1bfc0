"""How a model wants to be asked for what is missing between two pieces of code. Light; teacher plugins fill it in."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GAP", "Infilling"]

GAP = "<FILL_ME>"
"""What a prompt says where code is missing, whatever the model; the mark that CodeLlama's tokenizer takes."""


@dataclass(frozen=True)
class Infilling:
    """A model's marks before, after and between: prefix-suffix-middle order (arXiv 2207.14255).

    `behind_prefix` stands between the first mark and the code.
    """

    prefix: str
    suffix: str
    middle: str
    behind_prefix: str = ""

    def written(self, before: str, after: str) -> str:
        """Return the prompt at whose end the model writes what stands between `before` and `after`."""
        return f"{self.prefix}{self.behind_prefix}{before}{self.suffix}{after}{self.middle}"

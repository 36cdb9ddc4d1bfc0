"""The text of an example's body, of whatever form it is: what annotators speak of, character by character."""

from __future__ import annotations

from kdtool._contract.text import Completion, Messages, Text

__all__ = ["parts_of"]


def parts_of(body: Text | Completion | Messages) -> tuple[str, ...]:
    """Return the parts of a body's text in their order: a text; prompt and completion; what each turn says. Since 0.1."""
    if isinstance(body, Text):
        return (body.text,)
    if isinstance(body, Completion):
        return body.prompt, body.completion
    return tuple(content for _, content in body.turns)

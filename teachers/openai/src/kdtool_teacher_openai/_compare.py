"""Comparison of a server's tokenizer with the one that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_teacher_openai._server import RefusedError, Server

if TYPE_CHECKING:
    from kdtool_teacher_openai._config import OpenAIConfig

__all__ = ["SAMPLES", "compare_tokenizers"]

SAMPLES = (
    "def add(a, b):\n    return a + b\n",
    "x = 10_000 + 3.14159e-12  # 2026\n\tif x:\n",
    "  naïve café — 日本語 🙂\r\n",
    "#include <stdio.h>\nint main(void) { return 0x7f; }",
    "SELECT *\n\n\nFROM t;    ",
)
"""Text that tokenizers split differently: indentation, digits, other scripts, ends of lines."""


def compare_tokenizers(
    server: Server, config: OpenAIConfig, tokenizer: kdtool.Tokenizer, name: str, otherwise: str
) -> None:
    """Compare the server's tokenizer with the one named, on a few texts.

    Args:
        server: the server.
        config: its address and the name of its model.
        tokenizer: the tokenizer whose token ids will be sent.
        name: where that one is from, for errors.
        otherwise: what else the user can do, for errors.

    Raises:
        UsageError: it splits them in another way, or does not return how.
    """
    root = config.url.removesuffix("/v1")
    for sample in SAMPLES:
        # Each server reads its own key: vLLM `prompt`, llama.cpp `content`.
        body = {"model": config.model, "prompt": sample, "content": sample}
        try:
            reply = server.post(f"{root}/tokenize", {**body, "add_special_tokens": False, "add_special": False})
        except (RefusedError, kdtool.UsageError) as error:
            raise kdtool.UsageError(
                f"the server does not report how it splits text ({error}), so token ids cannot be trusted to be those of "
                f"{name}: {otherwise}"
            ) from None
        served = reply.get("tokens") if isinstance(reply, Mapping) else None
        expected = tokenizer.encode(sample)
        if served != expected:
            raise kdtool.UsageError(
                f"the server's tokenizer is not {name}: {_difference(expected, served)}. Name its model's "
                f"tokenizer, or {otherwise}"
            )


def _difference(expected: Sequence[int], served: Any) -> str:
    if not isinstance(served, list):
        return f"the server returned {served!r} instead of token ids"
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, served, strict=False)) if a != b), min(len(expected), len(served))
    )
    return f"token {at} of a sample is {served[at : at + 3]} there and {list(expected[at : at + 3])} here"

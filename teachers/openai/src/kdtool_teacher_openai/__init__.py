"""Teacher plugin `openai`: a model on a server with the OpenAI protocol.

`OpenAI` is the teacher, `_runtime` shows it to evaluators. `_server` sends requests, `_texts` turns prompts into answers,
`_arrived` stores answers as they arrive, `_tokens` asks for the likeliest tokens and compares tokenizers, `_address` checks
the server's address. All of them load in hooks.
"""

from __future__ import annotations

from kdtool_teacher_openai._teacher import OpenAI

__all__ = ["OpenAI"]

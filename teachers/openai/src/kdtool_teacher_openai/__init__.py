"""Teacher plugin `openai`: a model on a server with the OpenAI protocol.

`OpenAI` is the teacher, `_runtime` shows it to evaluators. `_server` sends requests, `_texts` turns prompts into answers,
`_arrived` stores answers as they arrive, `_tokens` asks for the likeliest tokens of the documents in a batch (`_documents`),
`_compare` compares tokenizers. All of them load in hooks. `_address` checks the server's address (`require_url`), and
`client` has what other teachers on servers use, too.
"""

from __future__ import annotations

from kdtool_teacher_openai._address import require_url
from kdtool_teacher_openai._teacher import OpenAI

__all__ = ["OpenAI", "require_url"]

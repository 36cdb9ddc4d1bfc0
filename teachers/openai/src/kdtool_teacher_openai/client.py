"""The client of this package, for teachers on servers with the same protocol and more."""

from __future__ import annotations

from kdtool_teacher_openai._address import local_addresses
from kdtool_teacher_openai._compare import compare_tokenizers
from kdtool_teacher_openai._config import OpenAIConfig
from kdtool_teacher_openai._documents import Piece, documents_of
from kdtool_teacher_openai._runtime import AnsweringRuntime
from kdtool_teacher_openai._server import RefusedError, Server
from kdtool_teacher_openai._texts import choice_of

__all__ = [
    "AnsweringRuntime",
    "OpenAIConfig",
    "Piece",
    "RefusedError",
    "Server",
    "choice_of",
    "compare_tokenizers",
    "documents_of",
    "local_addresses",
]

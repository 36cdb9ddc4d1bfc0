"""Tokens and logits of a GGUF file, from llama.cpp in a separate process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdtool_exporter_gguf._child import Child
from kdtool_exporter_gguf._decoding import BATCH

__all__ = ["Decoder"]

_ALONE = "☺"
"""A character that no token joins with another."""


class Decoder(Child):
    """An opened GGUF file.

    `context` is the maximum number of tokens, `vocabulary` the number of logits, `start` the tokens that llama.cpp prepends
    to a text (one or none), `end` the end-of-sequence token (-1 if there is none), `infilling` the tokens before the prefix,
    the suffix and the middle (() without). It `converses` if the file has a chat template. Arguments as for `LlamaCpp`;
    without `threads`, it takes as many as PyTorch. Several threads may use it: they wait for each other.

    Raises:
        UsageError: llama.cpp cannot open the file.
    """

    def __init__(self, file: Path, *, context: int, threads: int | None) -> None:
        super().__init__("_decoding", file, {"context": context, "threads": threads or torch.get_num_threads()})
        self.context: int = self.ready["context"]
        self.vocabulary: int = self.ready["vocabulary"]
        self.start: list[int] = self.ready["start"]
        self.end: int = self.ready["end"]
        self.converses: bool = self.ready["converses"]
        marks: list[int] = self.ready["infilling"]
        self.infilling = tuple(marks) if min(marks) >= 0 else ()
        self._lock = Lock()

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text, including special tokens written in it, without a start token.

        Raises:
            PluginError: llama.cpp has ended.
        """
        with self._lock:
            self._send({"text": text})
            line = self.stdout.readline()
        if not line:
            raise self.end_error()
        found: list[int] = json.loads(line)
        return found

    def tokenize_infilling(self, before: str, after: str) -> list[int]:
        """Return the prompt for the gap between two texts, for a file with `infilling` tokens, as the marks' models read it.

        Raises:
            PluginError: llama.cpp has ended.
        """
        prefix, suffix, middle = self.infilling
        return [*self.start, prefix, *self.tokenize(before), suffix, *self._tokenize_behind(after), middle]

    def _tokenize_behind(self, text: str) -> list[int]:
        """Return the tokens of a text without the space that sentencepiece would put before it, as Code Llama's authors do."""
        if not self.ready["sentencepiece"]:
            return self.tokenize(text)
        return self.tokenize(_ALONE + text)[len(self.tokenize(_ALONE)) :]

    def logits(self, tokens: Sequence[int], first: int = 0) -> Iterator[NDArray[np.float32]]:
        """Yield the logits [≤ 512, vocabulary] behind each token from number `first` on; read them all.

        Each call starts with an empty context, so that logits do not depend on earlier calls.

        Raises:
            PluginError: llama.cpp has ended.
        """
        with self._lock:
            self._send({"tokens": [*tokens], "first": first})
            for start in range(first - first % BATCH, len(tokens), BATCH):
                rows = min(start + BATCH, len(tokens)) - max(start, first)
                found = np.empty((rows, self.vocabulary), dtype=np.float32)
                buffer, filled = memoryview(found.data).cast("B"), 0
                while filled < found.nbytes:
                    count = self.stdout.readinto(buffer[filled:])  # type: ignore[attr-defined]
                    if not count:
                        raise self.end_error()
                    filled += count
                yield found

    def _send(self, request: Mapping[str, Any]) -> None:
        try:
            self.stdin.write(json.dumps(request).encode() + b"\n")
            self.stdin.flush()
        except OSError as error:
            raise self.end_error() from error

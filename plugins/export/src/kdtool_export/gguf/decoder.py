"""Tokens and logits of a GGUF file, from llama.cpp in a child process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from kdtool_torch import not_finite
from kdtool_transformers import SUFFIX_FIRST, infilling_by
from numpy.typing import NDArray

from kdtool_export.gguf.decoder_child import BATCH
from kdtool_export.gguf.processes import Child

_ALONE = "☺"
"""A character that no token joins with another."""


class Decoder(Child):
    """An opened GGUF file.

    `context` is the maximum number of tokens, `vocabulary` the number of logits, `start` the tokens that llama.cpp prepends
    to a text (one or none), `end` the end-of-sequence token (-1 if there is none), `infilling` the tokens before the prefix,
    the suffix and the middle with their text (empty without). It `converses` if the file has a chat template. Arguments as
    for `LlamaCpp`; without `threads`, it takes as many as PyTorch. Threads that use it wait for each other.

    Raises:
        UsageError: llama.cpp cannot open the file.
        KdtoolError: its first logits are not finite.
    """

    def __init__(self, file: Path, *, context: int, threads: int | None = None) -> None:
        super().__init__("decoder_child", file, {"context": context, "threads": threads or torch.get_num_threads()})
        self.context: int = self.ready["context"]
        self.vocabulary: int = self.ready["vocabulary"]
        self.start: list[int] = self.ready["start"]
        self.end: int = self.ready["end"]
        self.converses: bool = self.ready["converses"]
        self._lock = Lock()
        self.infilling: dict[int, str] = dict(self.ready["infilling"]) or self._find_suffix_first()
        if not all(np.isfinite(logits.max()) for logits in self.logits(self.start or [max(0, self.end)])):
            self.close()
            raise not_finite(str(file))

    def tokenize(self, text: str, *, marked: bool = False) -> list[int]:
        """Return the tokens of a text without a start token; control tokens written in it count if it is `marked`.

        Raises:
            PluginError: llama.cpp has ended.
        """
        with self._lock:
            self._send({"text": text, "marked": marked})
            line = self.stdout.readline()
        if not line:
            raise self.end_error()
        tokens: list[int] = json.loads(line)
        return tokens

    def tokenize_infilling(self, before: str, after: str) -> list[int]:
        """Return the infilling prompt for two texts, as `kdtool_transformers` writes it; `infilling` is not empty.

        Raises:
            PluginError: llama.cpp has ended.
        """
        ids = {text: token for token, text in self.infilling.items()}
        family = infilling_by(*ids)
        tokens = [*self.start]
        for mark, text in family.pieces(before, "", after, family.suffix_first):
            tokens += [ids[mark]] if mark else []
            tokens += self._tokenize_behind(text)
        return tokens

    def _find_suffix_first(self) -> dict[int, str]:
        """Return the FIM tokens that llama.cpp does not know, since it writes no prompts with the suffix first."""
        found = {mark: self.tokenize(mark, marked=True) for mark in SUFFIX_FIRST.tokens}
        named = {tokens[0]: mark for mark, tokens in found.items() if len(tokens) == 1}
        return named if len(named) == len(found) else {}  # fewer: the unknown token stands for several

    def _tokenize_behind(self, text: str) -> list[int]:
        """Return the tokens of a text without the space that sentencepiece puts before a first one."""
        if not self.ready["sentencepiece"]:
            return self.tokenize(text)
        return self.tokenize(_ALONE + text)[len(self.tokenize(_ALONE)) :]

    def logits(self, tokens: Sequence[int], first: int = 0) -> Iterator[NDArray[np.float32]]:
        """Yield the logits [≤ 512, vocabulary] after each token from number `first` on; read them all.

        Each call starts with an empty context, so that logits do not depend on earlier calls.

        Raises:
            PluginError: llama.cpp has ended.
        """
        with self._lock:
            self._send({"tokens": [*tokens], "first": first})
            for start in range(first - first % BATCH, len(tokens), BATCH):
                rows = min(start + BATCH, len(tokens)) - max(start, first)
                block = np.empty((rows, self.vocabulary), dtype=np.float32)
                buffer, filled = memoryview(block.data).cast("B"), 0
                while filled < block.nbytes:
                    count = self.stdout.readinto(buffer[filled:])  # type: ignore[attr-defined]
                    if not count:
                        raise self.end_error()
                    filled += count
                yield block

    def _send(self, request: Mapping[str, Any]) -> None:
        try:
            self.stdin.write(json.dumps(request).encode() + b"\n")
            self.stdin.flush()
        except OSError as error:
            raise self.end_error() from error

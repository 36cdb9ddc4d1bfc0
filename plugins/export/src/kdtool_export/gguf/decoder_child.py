"""Decode tokens with llama.cpp, by the C functions in the library of the xllamacpp wheel; a script for a child process.

The process reads one JSON object of settings from standard input, then one for each request: `{"text"}` for the tokens
of a text, `{"tokens", "first"}` for logits. It writes a line of JSON for tokens, and raw float32 for logits.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_void_p
from typing import Any

import numpy as np

from kdtool_export.gguf.processes import READY

BATCH = 512
"""Tokens that are decoded at once."""
_SENTENCEPIECE = 1
"""llama.cpp's number for vocabularies like those of Llama 2."""


class _Parameters(Structure):
    """Parameters of a model or a context, with room for later versions: only the first four numbers are set here.

    Those of a context are n_ctx, n_batch, n_ubatch and n_seq_max in every version so far, which `_check_layout` checks.
    """

    _fields_ = (("numbers", c_int32 * 256),)


class _Batch(Structure):
    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


def _library() -> ctypes.CDLL:
    from xllamacpp import xllamacpp

    library = ctypes.CDLL(xllamacpp.__file__)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "llama_model_default_params": (_Parameters, []),
        "llama_context_default_params": (_Parameters, []),
        "llama_model_load_from_file": (c_void_p, [c_char_p, _Parameters]),
        "llama_model_get_vocab": (c_void_p, [c_void_p]),
        "llama_model_n_ctx_train": (c_int32, [c_void_p]),
        "llama_vocab_n_tokens": (c_int32, [c_void_p]),
        "llama_model_chat_template": (c_char_p, [c_void_p, c_char_p]),
        "llama_vocab_type": (c_int32, [c_void_p]),
        "llama_vocab_eos": (c_int32, [c_void_p]),
        "llama_vocab_get_text": (c_char_p, [c_void_p, c_int32]),
        "llama_vocab_fim_pre": (c_int32, [c_void_p]),
        "llama_vocab_fim_suf": (c_int32, [c_void_p]),
        "llama_vocab_fim_mid": (c_int32, [c_void_p]),
        "llama_init_from_model": (c_void_p, [c_void_p, _Parameters]),
        "llama_n_ctx": (c_int32, [c_void_p]),
        "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
        "llama_get_memory": (c_void_p, [c_void_p]),
        "llama_memory_clear": (None, [c_void_p, c_bool]),
        "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
        "llama_batch_init": (_Batch, [c_int32, c_int32, c_int32]),
        "llama_decode": (c_int32, [c_void_p, _Batch]),
        "llama_get_logits_ith": (POINTER(c_float), [c_void_p, c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _Model:
    """A GGUF file with a context of one sequence."""

    def __init__(self, file: str, context: int, threads: int) -> None:
        self.library = library = _library()
        self.batch = library.llama_batch_init(BATCH, 0, 1)
        parameters = library.llama_context_default_params()
        _check_layout(self.batch, parameters)
        model = library.llama_model_load_from_file(os.fsencode(file), library.llama_model_default_params())
        if not model:
            sys.exit(1)  # llama.cpp has written why
        self.vocabulary = library.llama_model_get_vocab(model)
        self.converses = library.llama_model_chat_template(model, None) is not None
        self.size = library.llama_vocab_n_tokens(self.vocabulary)
        trained_context = library.llama_model_n_ctx_train(model)
        parameters.numbers[:3] = min(context, trained_context), BATCH, BATCH
        self.context = library.llama_init_from_model(model, parameters)
        if not self.context:
            sys.exit(1)
        self.longest = min(library.llama_n_ctx(self.context), trained_context)
        library.llama_set_n_threads(self.context, threads, threads)

    def tokenize(self, text: bytes, *, begun: bool, marked: bool) -> list[int]:
        room = len(text) + 8
        tokens = (c_int32 * room)()
        count = self.library.llama_tokenize(self.vocabulary, text, len(text), tokens, room, begun, marked)
        return tokens[: max(0, count)]

    def infilling(self) -> list[tuple[int, str]]:
        """Return the marks before the prefix, the suffix and the middle, as ids and text; [] without them."""
        ids = [getattr(self.library, f"llama_vocab_fim_{mark}")(self.vocabulary) for mark in ("pre", "suf", "mid")]
        if min(ids) < 0:
            return []
        return [(token, self.library.llama_vocab_get_text(self.vocabulary, token).decode()) for token in ids]

    def logits(self, tokens: list[int], first: int) -> None:
        """Write the logits after each token from number `first` on: rows of float32."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            batch, wanted = self.batch, max(0, first - start)
            batch.n_tokens = len(part)
            for position, token in enumerate(part):
                batch.token[position], batch.pos[position] = token, start + position
                batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
                batch.logits[position] = position >= wanted
            if self.library.llama_decode(self.context, batch) != 0:
                sys.exit("llama_decode failed")
            if wanted < len(part):
                rows = self.library.llama_get_logits_ith(self.context, wanted)  # the rows are contiguous
                sys.stdout.buffer.write(np.ctypeslib.as_array(rows, (len(part) - wanted, self.size)).data)
        sys.stdout.buffer.flush()


def _check_layout(batch: _Batch, parameters: _Parameters) -> None:
    """End if the library's structures are others than those above."""
    pointers = batch.token, batch.pos, batch.n_seq_id, batch.seq_id, batch.logits
    if batch.n_tokens or batch.embd or not all(pointers) or parameters.numbers[:4] != [512, 2048, 512, 1]:
        sys.exit("its parameters are laid out differently in this version of xllamacpp: install another version")


def main() -> None:
    """Answer until standard input is closed."""
    settings = json.loads(sys.stdin.readline())
    model = _Model(settings["model"], settings["context"], settings["threads"])
    facts = {
        "context": model.longest,
        "vocabulary": model.size,
        "converses": model.converses,
        "end": model.library.llama_vocab_eos(model.vocabulary),
        "infilling": model.infilling(),
        "sentencepiece": model.library.llama_vocab_type(model.vocabulary) == _SENTENCEPIECE,
        "start": model.tokenize(b"", begun=True, marked=False),
    }
    print(f"{READY}{json.dumps(facts)}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "text" in request:
            text, marked = request["text"].encode(), request["marked"]
            print(json.dumps(model.tokenize(text, begun=False, marked=marked)), flush=True)
        else:
            model.logits(request["tokens"], request["first"])
    os._exit(0)  # llama.cpp's threads may still run


if __name__ == "__main__":
    main()

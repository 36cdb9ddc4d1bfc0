"""A tokenizer of bytes: for teachers and students that start without a tokenizer, and for tests."""

from __future__ import annotations

from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["byte_tokenizer"]


def byte_tokenizer(family: str = "llama") -> TransformersTokenizer:
    """Return a tokenizer of 257 tokens: the bytes, and `<|endoftext|>`; of the class that transformers uses for a family."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if family == "qwen2":
        vocabulary = {token: number for number, token in enumerate(alphabet)}
        return TransformersTokenizer(transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[]))
    inner = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")  # noqa: S106 - no password
    return TransformersTokenizer(fast)

"""Small students for the tests."""

from __future__ import annotations

from pathlib import Path

from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import TransformersModel, open_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TEXTS = ("def f(x):\n    return x + 12345\n", "größer 日本語 🎉\n", "x", "é" * 30)


def save_student(
    folder: Path,
    *,
    digits: bool = False,
    template: str | None = TEMPLATE,
    family: str = "llama",
    seed: int = 0,
    hidden: int = 64,
) -> TransformersModel:
    """Write a small Llama of four heads of 16 with a byte-level BPE tokenizer, trained on this file."""
    inner = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    single = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([single, words]) if digits else words
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([Path(__file__).read_text(encoding="utf-8"), " 12345" * 500], trainer)
    save_tiny(folder, family, seed=seed, vocabulary=320, hidden_size=hidden, head_dim=16)
    end = "<|endoftext|>"
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, bos_token=end, chat_template=template)
    wrapped.save_pretrained(folder)
    return open_model(folder, offline=True)

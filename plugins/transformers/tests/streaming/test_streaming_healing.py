"""Healed prompts: the answer continues the last word as the model would, and begins after the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import kdtool
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersModel, TransformersRuntime, TransformersTokenizer
from kdtool_transformers.streaming.streamer import Healing
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["wi", "wid", "width", "width_of", "th", "ĠĠ", "Ġw", "Ġwidth", "Ġreturn", "re", "Ã©"]
"""Tokens of several bytes, as a byte-level tokenizer writes them: Ġ is a space, Ã© an é."""


@pytest.fixture(scope="module")
def tokenizer() -> TransformersTokenizer:
    tokens = [*WORDS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    inner = Tokenizer(models.Unigram([(token, -1.0) for token in tokens], unk_id=len(tokens) - 1))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return TransformersTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>"))


@settings(deadline=None)
@given(st.text("widthreturn_ é", min_size=2, max_size=12))
def test_a_removed_token_can_be_spelt_again_in_every_way(tokenizer: TransformersTokenizer, prompt: str) -> None:
    healing = Healing(tokenizer)
    shorter, removed = healing.shorten(kdtool.Request("1", prompt, 8))
    assert shorter.prompt.encode() + removed == prompt.encode()
    if not removed:
        return
    logits = torch.randn(tokenizer.vocabulary)
    restricted = logits.clone()
    healing.restrict(restricted, removed)
    pieces = tokenizer.pieces([*range(tokenizer.vocabulary)])
    fits = [bool(piece) and (piece.startswith(removed) or removed.startswith(piece)) for piece in pieces]
    assert (restricted > -torch.inf).tolist() == fits
    assert torch.equal(restricted[torch.tensor(fits)], logits[torch.tensor(fits)])
    assert fits[tokenizer.encode(prompt)[-1]]


@pytest.fixture(scope="module")
def runtime(tokenizer: TransformersTokenizer) -> Iterator[TransformersRuntime]:
    model = tiny_model("llama", vocab_size=tokenizer.vocabulary)
    opened = TransformersRuntime(TransformersModel(model.model, tokenizer))
    yield opened
    opened.close()


def _text(runtime: TransformersRuntime, request: kdtool.Request) -> str:
    return "".join(piece.text for piece in runtime.stream(request))


@pytest.mark.parametrize("prompt", ["def area(wid", "x = width_of", "if x:  ", "# é é"])
def test_an_answer_is_the_likeliest_one_that_spells_the_prompt(runtime: TransformersRuntime, prompt: str) -> None:
    request = kdtool.Request("1", prompt, 6, heal=True)
    pieces = list(runtime.stream(request))
    with runtime.passes() as model:
        healing, vocabulary = Healing(model.tokenizer), model.tokenizer.vocabulary
        shorter, rest = healing.shorten(request)
        ids = model.tokenizer.encode(shorter.prompt)
        assert pieces[-1].tokens_in == len(ids) + 1 == len(model.tokenizer.encode(prompt))
        assert pieces[-1].tokens_out == request.max_tokens
        for _ in range(request.max_tokens + 1):
            logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1, :vocabulary].float()
            if rest:
                healing.restrict(logits, rest)
            ids.append(int(logits.argmax()))
            rest = healing.rest(rest, ids[-1])
        expected = model.tokenizer.decode(ids)
    assert expected.startswith(prompt)
    assert "".join(piece.text for piece in pieces) == expected[len(prompt) :]


def test_a_stop_string_within_the_prompt_ends_nothing(runtime: TransformersRuntime) -> None:
    request = kdtool.Request("1", "def area(wid", 6, heal=True)
    assert _text(runtime, replace(request, stop=("wid",))) == _text(runtime, request).partition("wid")[0]


def test_healed_and_plain_texts_share_a_batch(runtime: TransformersRuntime) -> None:
    requests = [
        kdtool.Request(str(number), "def area(wid", 8, heal=bool(number % 2), temperature=number / 4, seed=number)
        for number in range(4)
    ]
    alone = [_text(runtime, request) for request in requests]
    streams = [runtime.stream(request) for request in requests]
    first = [next(stream) for stream in streams]
    together = [
        piece.text + "".join(rest.text for rest in stream) for piece, stream in zip(first, streams, strict=True)
    ]
    assert together == alone

"""Rows by a tokenizer as Code Llama's is made, which puts a space and `<s>` before every text.

A document's tokens are its text, and models read it from `<s>` on: in rows, in signals and in scores.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import kdtool
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from kdtool_essentials.packed import Packed, Pairs
from kdtool_teacher_causal_lm import CausalLM
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_code_llama_tokenizer, tiny_config
from kdtool_torch import collate
from kdtool_transformers import TransformersModel, TransformersRuntime, TransformersTokenizer, open_tokenizer
from transformers import LlamaForCausalLM


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TransformersTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_code_llama_tokenizer(folder, 616, 100_000, infilling=True)
    return open_tokenizer(folder)


def documents(
    packer: kdtool.Packer, body: kdtool.Completion | kdtool.Messages, tokenizer: TransformersTokenizer
) -> list[str]:
    """The text of each document in the rows of one example."""
    found = []
    for row in packer.kdtool_rows(make_run(Path()), [kdtool.Example("e", body)], tokenizer) or ():
        for number, tokens in groupby(zip(row.document, row.input_ids, strict=True), lambda pair: pair[0]):
            if number >= 0:
                found.append(tokenizer.decode([token for _, token in tokens]))
    return found


TEXTS = st.text(st.sampled_from("ab(x=) \n\té漢"), min_size=1, max_size=20)
PACKED, PAIRS = Packed(Packed.Config(length=256, conversations="plain")), Pairs(Pairs.Config(length=512))


@given(prompt=TEXTS, chosen=TEXTS, rejected=TEXTS)
@example(prompt="def f(a):\n", chosen="    return a\n", rejected="  return b\n")
@example(prompt="x = f(", chosen="a)", rejected=" b)")
def test_a_document_is_its_prompt_and_its_completion(
    prompt: str, chosen: str, rejected: str, tokenizer: TransformersTokenizer
) -> None:
    assert documents(PACKED, kdtool.Completion(prompt, chosen), tokenizer) == [prompt + chosen]
    pair = documents(PAIRS, kdtool.Preference(prompt, chosen, rejected), tokenizer)
    assert pair == ([] if chosen == rejected else [prompt + chosen, prompt + rejected])


def test_a_conversation_is_written_as_it_is(tokenizer: TransformersTokenizer) -> None:
    talk = kdtool.Messages((("user", "add"), ("assistant", "    a + b"), ("user", " more"), ("assistant", "c")))
    assert documents(PACKED, talk, tokenizer) == [
        "### user\nadd\n\n### assistant\n    a + b### user\n more\n\n### assistant\nc"
    ]


@torch.no_grad()
def test_rows_signals_and_scores_begin_alike(tokenizer: TransformersTokenizer, tmp_path: Path) -> None:
    """A teacher's signals on packed rows, and a text's score, are those of `<s>` and the text alone."""
    tokenizer.save(tmp_path)
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(vocabulary=tokenizer.vocabulary)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(tmp_path)
    texts = ["def f(x):\n    return x\n", "x = 1\n"]
    examples = [kdtool.Example(text, kdtool.Text(text)) for text in texts]
    batch = collate(list(PACKED.kdtool_rows(make_run(Path()), examples, tokenizer)))
    teacher = CausalLM(CausalLM.Config(model=str(tmp_path), dtype="float32"))
    lazy = teacher.kdtool_signal(batch, kdtool.SignalRequest(frozenset({"logits"}))).lazy
    assert lazy is not None
    found = torch.split(
        lazy.head.logits(lazy.hidden).log_softmax(-1), [len(tokenizer.encode(text)) + 1 for text in texts]
    )
    scores = TransformersRuntime(TransformersModel(model, tokenizer)).score(texts)
    for text, told, score in zip(texts, found, scores, strict=True):
        ids = [*tokenizer.encode(text), tokenizer.end_of_text]
        expected = model(torch.tensor([[1, *ids]])).logits[0, :-1].log_softmax(-1)
        torch.testing.assert_close(told, expected, rtol=1e-4, atol=1e-4)
        likelihoods = expected[torch.arange(len(ids)), torch.tensor(ids)]
        assert score.log_likelihood == pytest.approx(float(likelihoods[:-1].sum()), rel=1e-5)

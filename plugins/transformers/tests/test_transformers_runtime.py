"""Scores against the plain model in float64, answers against its plain decoding, and how many texts share a batch."""

from __future__ import annotations

import copy
import math
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing.tiny_models import begin_texts_with, save_code_llama_tokenizer, tiny_model
from kdtool_torch import windows
from kdtool_transformers import TransformersModel, TransformersRuntime, generation, open_tokenizer
from kdtool_transformers.generation import Capacity, capacity_of, gpu_capacity
from transformers import LlamaConfig
from transformers.cache_utils import DynamicLayer

MODEL = tiny_model()
TEXTS = ["def f(x):\n    return x\n", "", "é 漢\t\n", "x" * 300, "a", "print(1)\n" * 20]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TransformersModel]:
    """Models of which a text begins with the end of text, with `<s>` as sentencepiece writes it, and with two tokens."""
    folder = tmp_path_factory.mktemp("llama")
    save_code_llama_tokenizer(folder, 616, 100_000, infilling=True)
    two = tiny_model(vocabulary=260)
    two.tokenizer = begin_texts_with(two.tokenizer, "[gMASK]", "<sop>")
    llama = TransformersModel(tiny_model(vocabulary=616).model, open_tokenizer(folder))
    return {"bytes": MODEL, "llama": llama, "two": two}


def _expected(model: TransformersModel, text: str, window: int) -> float:
    """Each token from float64, in the first window that holds it; windows advance by half."""
    context = model.tokenizer.scoring_context
    ids = [*context, *model.tokenizer.encode(text)]
    double = copy.deepcopy(model.model).double()
    total, start, scored = 0.0, 0, len(context) - 1
    while scored < len(ids) - 1:
        stop = min(start + window, len(ids) - 1)
        with torch.no_grad():
            logits = double(input_ids=torch.tensor([ids[start:stop]])).logits[0, :, : model.tokenizer.vocabulary]
        likelihoods = logits.log_softmax(-1)
        total += sum(float(likelihoods[at - start, ids[at + 1]]) for at in range(scored, stop))
        scored, start = stop, start + window // 2
    return total


@pytest.mark.parametrize(("name", "window"), [("bytes", 2048), ("bytes", 50), ("llama", 2048), ("two", 2048)])
def test_scores_are_those_of_float64(name: str, window: int, models: dict[str, TransformersModel]) -> None:
    model = models[name]
    for text, score in zip(TEXTS, TransformersRuntime(model, window=window).score(TEXTS), strict=True):
        assert (score.tokens, score.bytes) == (len(model.tokenizer.encode(text)), len(text.encode()))
        assert score.log_likelihood == pytest.approx(_expected(model, text, min(window, 512)), rel=1e-5, abs=1e-4)


@torch.no_grad()
def test_logits_of_scores_are_not_rounded_to_half_precision(models: dict[str, TransformersModel]) -> None:
    """Final states are bfloat16's under autocast; what follows from them is as exact as from float64."""
    model = models["llama"]
    ids = model.tokenizer.encode(TEXTS[0])
    with torch.autocast("cpu", torch.bfloat16):
        tokens = torch.tensor([[*model.tokenizer.document_start, *ids]])[:, :-1]
        positions = torch.arange(tokens.shape[1])[None]
        document = torch.zeros_like(positions, dtype=torch.int32)
        batch = kdtool.Batch(tokens, positions, torch.tensor([ids]), document, ("",))
        states = model.backbone(batch, kdtool.SignalRequest()).last
    logits = states.double() @ model.head.weight[: model.tokenizer.vocabulary].double().T
    expected = float(logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum())
    (score,) = TransformersRuntime(model, torch.bfloat16).score(TEXTS[:1])
    assert score.log_likelihood == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 400), st.integers(1, 50))
def test_every_token_is_scored_once_with_half_a_window_before_it(count: int, size: int) -> None:
    found = list(windows(count, size))
    assert [n for one in found for n in range(one.scored, one.stop)] == list(range(count))
    assert all(one.stop - one.start <= size for one in found)
    assert all(one.scored - one.start >= size // 2 - 1 for one in found[1:])


def test_answers_do_not_depend_on_what_shares_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        kdtool.Request("greedy", "def f", 12),
        kdtool.Request("sampled", "x = ", 20, temperature=0.7, seed=5),
        kdtool.Request("other seed", "x = ", 20, temperature=0.7, seed=6),
        kdtool.Request("short", "a much longer prompt than all the others", 3),
        *(
            kdtool.Request(
                str(n), "x = (y)"[: n % 8] + "ab" * (n % 23), 12, tuple("aeiou\n"), temperature=n % 2, seed=n
            )
            for n in range(1, 41)
        ),
    ]
    runtime = TransformersRuntime(MODEL)
    found = {}
    for most in (1, 32, 70):
        monkeypatch.setattr("kdtool_transformers.runtime.capacity_of", lambda *_, most=most: Capacity(most))
        found[most] = {answer.id: answer for answer in runtime.answer(requests)}
    assert found[1] == found[32] == found[70]
    answers = found[1]
    assert len({answer.tokens_out for answer in answers.values()}) > 3, "they end at different times"
    assert answers["sampled"].text != answers["other seed"].text
    assert answers["short"].tokens_out == 3
    ids = torch.tensor([MODEL.tokenizer.encode("def f")])
    for _ in range(12):
        with torch.no_grad():
            ids = torch.cat([ids, MODEL.model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert answers["greedy"].finish == "length"
    assert MODEL.tokenizer.decode(ids[0].tolist()) == "def f" + answers["greedy"].text


def test_requests_share_a_batch_by_length_and_fill_no_more_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool_transformers.runtime.capacity_of", lambda *_: Capacity(memory=100))
    requests = [kdtool.Request(str(number), "x" * (5 + 40 * (number % 2)), 5) for number in range(8)]
    batches, generate = [], generation.generate

    def record(*arguments: Any) -> Any:
        batches.append([request.id for request in arguments[-1]])
        return generate(*arguments)

    monkeypatch.setattr("kdtool_transformers.runtime.generate", record)
    assert {answer.id for answer in TransformersRuntime(MODEL).answer(requests)} == set("01234567")
    assert batches == [["1", "3"], ["5", "7"], ["0", "2", "4", "6"]]


GIB = 2**30
SMOLLM2 = LlamaConfig(
    hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5
)


def test_a_cpu_is_bounded_by_tokens() -> None:
    capacity = capacity_of(MODEL.model, torch.device("cpu"))
    assert [capacity.texts(tokens) for tokens in (0, 1, 512, 1000, 16384, 99999)] == [32, 32, 32, 16, 1, 1]


@pytest.mark.parametrize(
    ("free", "tokens", "texts"), [(70 * GIB, 640, 512), (8 * GIB, 640, 99), (8 * GIB, 8192, 8), (GIB // 8, 8192, 1)]
)
def test_a_gpu_is_bounded_by_less_than_half_of_its_free_memory(free: int, tokens: int, texts: int) -> None:
    assert gpu_capacity(SMOLLM2, 2, 49152, free).texts(tokens) == texts
    keys_and_values = 2 * 32 * 5 * 64 * 2
    assert texts == 1 or texts * (tokens * keys_and_values + 4 * 49152) < free / 2


def test_a_little_less_memory_changes_no_batch() -> None:
    assert gpu_capacity(SMOLLM2, 2, 49152, 70 * GIB) == gpu_capacity(SMOLLM2, 2, 49152, 66 * GIB)


def test_stop_strings_end_an_answer_and_are_cut_off() -> None:
    runtime = TransformersRuntime(MODEL)
    (whole,) = runtime.answer([kdtool.Request("1", "def f", 40, temperature=1.0)])
    stop = whole.text[3:5]
    (cut,) = runtime.answer([kdtool.Request("1", "def f", 40, stop=(stop,), temperature=1.0)])
    assert (cut.text, cut.finish) == (whole.text[: whole.text.index(stop)], "stop")
    assert cut.tokens_out < whole.tokens_out


def test_sampling_follows_the_softmax() -> None:
    requests = [kdtool.Request(str(seed), "x", 1, temperature=2.0, seed=seed) for seed in range(1500)]
    drawn = [answer.text for answer in TransformersRuntime(MODEL).answer(requests)]
    with torch.no_grad():
        logits = MODEL.model(input_ids=torch.tensor([MODEL.tokenizer.encode("x")])).logits[0, -1]
    probabilities = (logits / 2).softmax(-1)
    letters = {letter: float(probabilities[MODEL.tokenizer.encode(letter)[0]]) for letter in "abcdefghijklmnopqrstuvw"}
    best = max(letters, key=lambda letter: letters[letter])
    expected, share = letters[best], drawn.count(best) / len(drawn)
    assert abs(share - expected) < 4 * math.sqrt(expected / len(drawn))


def test_prompts_that_fill_the_context_are_refused_and_the_others_answered() -> None:
    lengths = {"long": 600, "full": 512, "last": 511, "short": 3}
    requests = [kdtool.Request(name, "x" * length, 5) for name, length in lengths.items()]
    found = {answer.id: answer for answer in TransformersRuntime(MODEL).answer(requests)}
    assert {name for name, answer in found.items() if answer.finish == "refused"} == {"long", "full"}
    assert {name: answer.tokens_in for name, answer in found.items()} == lengths
    assert (found["long"].text, found["last"].tokens_out) == ("", 1)


def test_generation_keeps_what_it_computed_whatever_training_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.model.config.use_cache = False
    lengths, forward = list[int](), model.model.forward

    def count(*args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", count)
    list(TransformersRuntime(model).answer([kdtool.Request("1", "def f", 4)]))
    assert lengths == [5, 1, 1, 1]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["autocast", "as stored"])
def test_keys_are_cached_in_the_dtype_of_the_weights_and_values_in_no_wider_one(
    weights: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.23 widens values to the dtype of keys; 5.24 stores them as they are computed."""
    keys, values = set[torch.dtype](), set[torch.dtype]()
    update = DynamicLayer.update

    def record(self: Any, *arguments: Any, **more: Any) -> Any:
        result = update(self, *arguments, **more)
        keys.add(self.keys.dtype)
        values.add(self.values.dtype)
        return result

    monkeypatch.setattr(DynamicLayer, "update", record)
    model = tiny_model()
    model.model.to(weights)
    list(TransformersRuntime(model, torch.bfloat16).answer([kdtool.Request("1", "def f", 3)]))
    assert keys == {weights}
    assert values <= {weights, torch.bfloat16}

"""Scores against the plain model, answers against its plain decoding, and errors of opening."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import huggingface_hub
import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing.tiny_models import save_tiny, tiny_model
from kdtool_torch import Documents, compute_dtype, exact_logits, files, scoring, self_check, windows
from kdtool_torch.model import _TOLERANCE, _deviations
from kdtool_transformers import TransformersRuntime, byte_tokenizer, open_model, open_tokenizer, weights_identity
from kdtool_transformers import model as model_module
from transformers.cache_utils import DynamicLayer

MODEL = tiny_model()
TEXTS = ["def f(x):\n    return x\n", "", "é 漢\t\n", "x" * 300, "a", "print(1)\n" * 20]


def without_documents(positions: torch.Tensor, document: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and documents of rows that are a single document each."""
    return torch.arange(positions.shape[1]).expand_as(positions), torch.zeros_like(document)


def _expected(text: str, window: int) -> float:
    """Token by token: each token in the first window that holds it; windows advance by half."""
    ids = [MODEL.tokenizer.end_of_text, *MODEL.tokenizer.encode(text)]
    total, start, scored = 0.0, 0, 0
    while scored < len(ids) - 1:
        stop = min(start + window, len(ids) - 1)
        with torch.no_grad():
            logits = MODEL.model(input_ids=torch.tensor([ids[start:stop]])).logits[0].double().log_softmax(-1)
        total += sum(float(logits[at - start, ids[at + 1]]) for at in range(scored, stop))
        scored, start = stop, start + window // 2
    return total


@pytest.mark.parametrize("window", [2048, 50])
def test_scores_equal_the_plain_models(window: int) -> None:
    scores = list(TransformersRuntime(MODEL, window=window).score(TEXTS))
    for text, score in zip(TEXTS, scores, strict=True):
        assert (score.tokens, score.bytes) == (len(text.encode()), len(text.encode()))
        assert score.log_likelihood == pytest.approx(_expected(text, min(window, 512)), rel=1e-4, abs=1e-4)


@given(st.integers(0, 400), st.integers(1, 50))
def test_every_token_is_scored_once_with_half_a_window_before_it(count: int, size: int) -> None:
    found = list(windows(count, size))
    assert [n for one in found for n in range(one.scored, one.stop)] == list(range(count))
    assert all(one.stop - one.start <= size for one in found)
    assert all(one.scored - one.start >= size // 2 - 1 for one in found[1:])


def test_answers_do_not_depend_on_what_shares_their_batch() -> None:
    requests = [
        kdtool.Request("greedy", "def f", 12),
        kdtool.Request("sampled", "x = ", 20, temperature=0.7, seed=5),
        kdtool.Request("other seed", "x = ", 20, temperature=0.7, seed=6),
        kdtool.Request("short", "a much longer prompt than all the others", 3),
    ]
    runtime = TransformersRuntime(MODEL)
    together = {answer.id: answer for answer in runtime.answer(requests)}
    alone = {answer.id: answer for request in requests for answer in runtime.answer([request])}
    assert together == alone
    assert together["sampled"].text != together["other seed"].text
    assert together["short"].tokens_out == 3
    ids = torch.tensor([MODEL.tokenizer.encode("def f")])
    for _ in range(12):
        with torch.no_grad():
            ids = torch.cat([ids, MODEL.model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    plain = MODEL.tokenizer.decode(ids[0].tolist())
    if together["greedy"].finish == "length":
        assert plain == "def f" + together["greedy"].text


def test_lines_of_many_documents_are_completed_together_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        kdtool.Request(str(n), "x = (y)"[: n % 8] + "ab" * (n % 23), 12, tuple("aeiou\n"), temperature=n % 2, seed=n)
        for n in range(1, 41)
    ]
    runtime, generate, rows = TransformersRuntime(MODEL), MODEL.model.generate, list[int]()

    def note(**inputs: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(MODEL.model, "generate", note)
    together = {answer.id: answer for answer in runtime.answer(requests)}
    assert rows == [32, 8]
    assert len({answer.tokens_out for answer in together.values()}) > 1, "they end at different times"
    assert together == {answer.id: answer for request in requests for answer in runtime.answer([request])}


def test_stop_strings_end_an_answer_and_are_cut_off() -> None:
    runtime = TransformersRuntime(MODEL)
    (whole,) = runtime.answer([kdtool.Request("1", "def f", 40, temperature=1.0)])
    stop = whole.text[3:5]
    (cut,) = runtime.answer([kdtool.Request("1", "def f", 40, stop=(stop,), temperature=1.0)])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish == "stop"
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
    assert {name: answer.finish == "refused" for name, answer in found.items()} == {
        "long": True,
        "full": True,
        "last": False,
        "short": False,
    }
    assert {name: answer.tokens_in for name, answer in found.items()} == lengths
    assert not found["long"].text
    assert found["last"].tokens_out == 1
    (alone,) = TransformersRuntime(MODEL).answer(requests[-1:])
    assert alone == found["short"]


def test_autocast_scores_are_close() -> None:
    exact, half = (list(TransformersRuntime(MODEL, dtype).score(TEXTS[:1])) for dtype in (None, torch.bfloat16))
    assert half[0].log_likelihood == pytest.approx(exact[0].log_likelihood, rel=0.03)


def test_the_tokenizer_keeps_text_and_its_fingerprint(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    assert (tokenizer.vocabulary, tokenizer.end_of_text) == (257, 256)
    assert tokenizer.decode(tokenizer.encode(TEXTS[2])) == TEXTS[2]
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    assert open_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


def test_the_dtype_can_be_named_or_measured() -> None:
    assert compute_dtype("float16", torch.device("cpu")) == torch.float16
    assert compute_dtype("auto", torch.device("cpu")) in (torch.bfloat16, torch.float32)


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    for source, told in {
        str(tmp_path / "absent"): "no such folder",
        str(tmp_path): "no config.json",
        "owner/name": "hf download owner/name",
    }.items():
        with pytest.raises(kdtool.KdtoolError, match=told):
            open_model(source, offline=True)
    save_tiny(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(kdtool.StorageError, match="cut short or damaged"):
        open_model(tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(kdtool.UsageError, match=r"only pickled weights .pytorch_model.bin.*convert once"):
        open_model(tmp_path)


def test_a_partly_cached_model_of_the_hub_is_to_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    save_tiny(snapshot)
    for file in snapshot.glob("*token*"):
        file.unlink()
    (refs := tmp_path / "models--owner--name" / "refs").mkdir()
    (refs / "main").write_text("a" * 40, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(kdtool.ServiceError, match="hf download owner/name"):
        open_model("owner/name", offline=True)


@pytest.mark.parametrize("source", ["absent", "models/absent", "./absent", "a/b/c"])
def test_the_hub_is_not_asked_for_a_folder_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(kdtool.UsageError, match=f"no such folder: {Path(source)}, and it is not a Hub name"):
        open_tokenizer(source)
    if source == "absent":  # as the oldest models of the hub are called
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "held")
        with pytest.raises(kdtool.ServiceError, match="neither a folder here nor in the local cache"):
            open_tokenizer(source, offline=True)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "odd", "auto_map": {"AutoConfig": "odd.Config", "AutoModelForCausalLM": "odd.Model"}}',
        encoding="utf-8",
    )
    (tmp_path / "odd.py").write_text("raise SystemExit('code was run')", encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(kdtool.UsageError, match="needs Python code from its own repository"):
        open_model(tmp_path)


def test_weights_are_identified_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    save_tiny(tmp_path / "a")
    save_tiny(tmp_path / "b")
    save_tiny(tmp_path / "c", seed=1)
    identity = {name: weights_identity(tmp_path / name) for name in "abc"}
    assert identity["a"] == identity["b"] != identity["c"]
    monkeypatch.setattr(files, "file_digest", None)  # remembered: nothing is read again
    assert weights_identity(tmp_path / "a") == identity["a"]


def test_self_check_in_half_precision() -> None:
    half = tiny_model()
    half.model.to(torch.bfloat16)
    assert self_check(half) < 0.05


@pytest.mark.parametrize("frozen", [False, True], ids=["float32", "bfloat16 embeddings"])
def test_self_check_of_a_model_that_amplifies_rounding(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            weight.mul_(40.0 if "q_proj" in name or "k_proj" in name else 8.0 if "_proj" in name else 1.0)
    if frozen:
        embeddings = model.model.get_input_embeddings().weight
        embeddings.data = embeddings.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        monkeypatch.setitem(_TOLERANCE, "bfloat16", 1e-2)
        assert max(_deviations(model)) > 1e-2, "else this test shows nothing"
        assert self_check(model) < 1e-3
        assert model.model.get_input_embeddings().weight.dtype == (torch.bfloat16 if frozen else torch.float32)
        monkeypatch.setattr(model_module, "Documents", lambda *rows: Documents(*without_documents(*rows)))
        with pytest.raises(kdtool.PluginError, match="documents see each other"):
            self_check(model)


def test_a_tokenizer_that_transformers_would_open_as_another_is_refused(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    model.save(tmp_path / "right")
    model.tokenizer = byte_tokenizer("llama")
    with pytest.raises(kdtool.PluginError, match=r"opens the tokenizer saved in .* as Qwen2Tokenizer"):
        model.save(tmp_path / "wrong")


def test_a_head_in_half_precision_is_copied_once_for_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[kdtool.Head] = []

    def project(head: kdtool.Head, states: torch.Tensor) -> torch.Tensor:
        used.append(head)
        return exact_logits(head, states)

    monkeypatch.setattr(scoring, "_ROWS", 4)
    monkeypatch.setattr(scoring, "exact_logits", project)
    model = tiny_model()
    model.model.to(torch.bfloat16)
    list(TransformersRuntime(model).score(TEXTS))
    assert len(used) > 1
    assert {head.weight.dtype for head in used} == {torch.float32}
    assert len({head.weight.data_ptr() for head in used}) == 1


@pytest.mark.parametrize(
    ("weights", "compute"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)],
    ids=["autocast", "as stored"],
)
def test_keys_are_cached_in_the_dtype_of_the_weights_and_values_in_no_wider_one(
    weights: torch.dtype, compute: torch.dtype, monkeypatch: pytest.MonkeyPatch
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
    list(TransformersRuntime(model, compute).answer([kdtool.Request("1", "def f", 3)]))
    assert keys == {weights}
    assert values <= {weights, compute}

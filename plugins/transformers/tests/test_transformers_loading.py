"""Sources that cannot be opened, weights in few bits, adapters, placement, and tokenizers that transformers changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import accelerate
import huggingface_hub
import kdtool
import pytest
import tokenizers
import torch
import transformers
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_starcoder2_tokenizer, save_tiny, tiny_model
from kdtool_torch import Documents, files, self_check
from kdtool_transformers import (
    TransformersRuntime,
    byte_tokenizer,
    find_source,
    open_model,
    open_tokenizer,
    weights,
    weights_identity,
)
from kdtool_transformers.model import without_weights
from kdtool_transformers.opening import explain, find_model_folder
from kdtool_transformers.weights import Quantisation, held_bytes, place_head

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft 0.21
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
FAMILIES = ("llama", "starcoder2")
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256}
IDS = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits.float()
    return found


def _deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.std())


@needs_bitsandbytes
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("quantise", "limit"), [("nf4", 0.35), ("int8", 0.05)])
def test_weights_in_few_bits_are_the_model_and_take_what_was_said(
    tmp_path: Path, family: str, quantise: Quantisation, limit: float, caplog: pytest.LogCaptureFixture
) -> None:
    plain = save_tiny(tmp_path, family, **SHAPE)
    model = open_model(tmp_path, dtype=torch.float32, quantise=quantise)
    deviation = _deviation(_logits(model.model), _logits(plain.model))
    assert 0.001 < deviation < limit
    assert replace(model.facts, trainable=plain.facts.trainable) == plain.facts
    assert model.model.model.layers[0].self_attn.q_proj.weight.dtype != torch.float32
    assert model.head.weight.dtype == torch.float32
    shapes = without_weights(plain.model.config)
    told = held_bytes(shapes, torch.float32, quantise)
    assert told < 0.5 * held_bytes(shapes, torch.float32, None)
    weights = model.model.get_memory_footprint()  # counts no scales
    assert weights < told < 1.05 * weights
    assert self_check(model, tolerance=0.05) < 0.05  # int8 rounds activations by the rows that share a batch
    (answer,) = TransformersRuntime(model).answer([kdtool.Request("1", "def f", 5)])
    assert answer.tokens_out == 5
    half = open_model(tmp_path, dtype=torch.bfloat16, quantise=quantise)
    _logits(half.model)
    assert "MatMul8bitLt" not in caplog.text, "bitsandbytes says nothing at every layer"
    half.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_weights_are_read_onto_their_device_and_not_moved_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was moved")

    monkeypatch.setattr(transformers.PreTrainedModel, "to", refuse)
    model = open_model(tmp_path, device="meta")
    assert {weight.device.type for weight in model.model.parameters()} == {"meta"}


def test_libraries_that_are_asked_for_and_absent_are_named_with_what_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "adapter" / name).touch()
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    with pytest.raises(kdtool.UsageError, match=r"pip install bitsandbytes"):
        open_model(tmp_path / "model", quantise="nf4")
    with pytest.raises(kdtool.UsageError, match=r"pip install peft"):
        open_model(tmp_path / "model", adapter=tmp_path / "adapter")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{folder}/absent", "no such folder"),
        ("{folder}/absent.gguf", "no such file"),
        ("{folder}", "config.json is missing or not a file"),
        ("{folder}/adapter", r"holds a PEFT adapter.*--set teacher\.adapter="),
        ("{folder}/cut", "cut short or damaged"),
        ("{folder}/pickled", r"only pickled weights .pytorch_model.bin.*convert once"),
        ("{folder}/own code", "needs Python code from its own repository"),
        ("owner/name", "hf download owner/name"),
    ],
)
def test_a_source_that_cannot_be_opened_says_why(source: str, words: str, tmp_path: Path) -> None:
    for name in ("adapter", "cut", "pickled", "own code"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapter" / "adapter_config.json").touch()
    for name in ("cut", "pickled"):
        save_tiny(tmp_path / name)
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "own code" / "config.json").write_text(
        '{"model_type": "odd", "auto_map": {"AutoConfig": "odd.Config", "AutoModelForCausalLM": "odd.Model"}}', "utf-8"
    )
    (tmp_path / "own code" / "odd.py").write_text("raise SystemExit('code was run')", "utf-8")
    (tmp_path / "own code" / "model.safetensors").touch()
    with pytest.raises(kdtool.KdtoolError, match=words):
        open_model(find_source(source.format(folder=tmp_path)).place, offline=True)


def test_a_revision_belongs_to_hub_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(kdtool.UsageError, match="belongs to Hub names"):
        find_source(str(tmp_path), "main")


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
    assert find_model_folder("owner/name", offline=True) == snapshot
    (snapshot / "model.safetensors").unlink()
    for name in ("owner/name", "owner/absent"):
        with pytest.raises(kdtool.ServiceError, match=f"hf download {name}"):
            find_model_folder(name, offline=True)


@pytest.mark.parametrize("source", ["absent", "models/absent", "./absent", "a/b/c"])
def test_the_hub_is_not_asked_for_a_folder_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(kdtool.UsageError, match=f"no such folder: {Path(source)}, and it is not a Hub name"):
        open_tokenizer(source)
    assert find_model_folder(source) is None
    if source == "absent":  # as the oldest models of the hub are called
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "held")
        with pytest.raises(kdtool.ServiceError, match="neither a folder here nor in the local cache"):
            open_tokenizer(source, offline=True)


def test_a_gated_model_is_refused_with_its_page_and_the_way_to_log_in() -> None:
    name = "mistralai/Mistral-7B-v0.1"
    error = OSError("config.json cannot be loaded")
    error.__cause__ = OSError(f"You are trying to access a gated repo.\nMake sure to have access to it at {name}.")
    page = rf"is gated .*https://huggingface\.co/{name} .*`hf auth login`"
    for raised, words in ((error, page), (OSError("not found"), "check the name")):
        with pytest.raises(kdtool.ServiceError, match=words), explain(name, name, offline=False):
            raise raised


def test_weights_are_identified_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_tiny(tmp_path / name, seed=seed)
    identity = {name: weights_identity(tmp_path / name) for name in "abc"}
    assert identity["a"] == identity["b"] != identity["c"]
    monkeypatch.setattr(files, "file_digest", None)  # remembered: nothing is read again
    assert weights_identity(tmp_path / "a") == identity["a"]


def test_a_tokenizer_that_transformers_would_open_as_another_is_refused(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    model.save(tmp_path / "right")
    model.tokenizer = byte_tokenizer("llama")
    with pytest.raises(kdtool.PluginError, match=r"opens the tokenizer saved in .* as Qwen2Tokenizer"):
        model.save(tmp_path / "wrong")


def _save_adapter(folder: Path, model: Any, targets: list[str]) -> torch.Tensor:
    """Write an adapter that changes the model, and return the logits with it."""
    import peft

    joined = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in joined.named_parameters():
        if "lora_" in name:  # both: what is drawn without a generator depends on the tests before
            parameter.data.normal_(std=0.1, generator=generator)
    joined.eval()
    joined.save_pretrained(str(folder), save_embedding_layers=False)
    return _logits(joined)


@needs_peft
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_folded_in(tmp_path: Path, family: str) -> None:
    plain = save_tiny(tmp_path / "model", family, tie_word_embeddings=False, **SHAPE)
    without = _logits(plain.model)
    facts = plain.facts
    expected = _save_adapter(tmp_path / "adapter", plain.model, ["q_proj", "v_proj", "lm_head"])
    model = open_model(tmp_path / "model", dtype=torch.float32, adapter=tmp_path / "adapter")
    assert _deviation(_logits(model.model), expected) < 1e-5
    assert _deviation(without, expected) > 0.05
    assert model.facts == facts
    assert self_check(model) < 1e-4


@needs_peft
@needs_bitsandbytes
def test_an_adapter_stays_beside_weights_in_few_bits(tmp_path: Path) -> None:
    plain = save_tiny(tmp_path / "model", tie_word_embeddings=False, **SHAPE)
    without = _logits(plain.model)
    expected = _save_adapter(tmp_path / "adapter", plain.model, ["q_proj", "v_proj"])
    model = open_model(tmp_path / "model", dtype=torch.float32, adapter=tmp_path / "adapter", quantise="int8")
    assert _deviation(_logits(model.model), expected) < 0.05 < _deviation(without, expected)
    assert self_check(model, tolerance=0.05) < 0.05
    other = save_tiny(tmp_path / "other", tie_word_embeddings=False, **SHAPE)
    _save_adapter(tmp_path / "of head", other.model, ["lm_head"])
    with pytest.raises(kdtool.UsageError, match="changes the head"):
        open_model(tmp_path / "other", adapter=tmp_path / "of head", quantise="nf4")


@needs_peft
def test_an_adapter_that_is_none_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    plain = save_tiny(tmp_path / "model", **SHAPE)
    _save_adapter(tmp_path / "adapter", plain.model, ["q_proj"])
    save_tiny(tmp_path / "smaller")
    save_tiny(tmp_path / "gpt2", "gpt2")
    for name in ("smaller", "gpt2"):
        with pytest.raises(kdtool.UsageError, match="does not fit"):
            open_model(tmp_path / name, adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(kdtool.UsageError, match=r"holds no adapter_model\.safetensors"):
        open_model(tmp_path / "model", adapter=tmp_path / "adapter")


def test_a_spread_model_computes_the_same(tmp_path: Path) -> None:
    plain = save_tiny(tmp_path)
    model = open_model(tmp_path, device_map="auto")
    torch.testing.assert_close(_logits(model.model), _logits(plain.model))


def test_the_head_of_a_model_that_waits_elsewhere_is_at_hand() -> None:
    plain, model = tiny_model(tie_word_embeddings=False), tiny_model(tie_word_embeddings=False)
    accelerate.cpu_offload(model.model, execution_device=torch.device("cpu"))
    assert model.head.weight.device.type == "meta"
    place_head(model.model, "cpu")
    torch.testing.assert_close(model.head.weight, plain.head.weight)
    batch = kdtool.Batch(
        IDS, torch.arange(40).expand(2, -1), IDS.clone(), torch.zeros(2, 40, dtype=torch.int32), ("a", "b")
    )
    want = kdtool.SignalRequest(frozenset({"hidden", "attentions", "projections"}), layers=(1,))
    found, expected = model.backbone(batch, want), plain.backbone(batch, want)
    torch.testing.assert_close(found.last, expected.last)
    assert self_check(model) < 1e-4
    torch.testing.assert_close(found.attentions[1], expected.attentions[1])
    torch.testing.assert_close(tuple(found.projections[1]), tuple(expected.projections[1]))


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_on_another_device_than_the_last_layer_brings_its_inputs_there(tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=tied).model
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        add_hook_to_module(module, AlignDevicesHook(execution_device=torch.device("cpu")))
    place_head(model, "meta")
    states = torch.zeros(1, 1, model.config.hidden_size)
    assert model.get_output_embeddings()(states).is_meta
    assert model.get_input_embeddings()(torch.zeros(1, 1, dtype=torch.int64)).is_meta == tied


def test_documents_follow_layers_to_other_devices_and_collect_in_one_place() -> None:
    documents = Documents(torch.arange(8)[None], torch.zeros(1, 8), frozenset({1}), frozenset({2}))
    elsewhere = documents.on(torch.device("meta"))
    assert documents.on(torch.device("cpu")) is documents
    assert elsewhere.start.device.type == "meta"
    assert documents.on(torch.device("meta")) is elsewhere
    assert (elsewhere.attentions is documents.attentions, elsewhere.wanted) == (True, documents.wanted)
    assert (elsewhere.projections is documents.projections, elsewhere.projecting) == (True, documents.projecting)


def _configured(folder: Path, model_type: str) -> None:
    (folder / "config.json").write_text(
        json.dumps({"model_type": model_type, "bos_token_id": 0, "eos_token_id": 0}), "utf-8"
    )


def test_digits_stand_alone_where_the_tokenizer_s_file_says_so(tmp_path: Path) -> None:
    save_starcoder2_tokenizer(tmp_path, 2000, 1_000_000)
    _configured(tmp_path, "starcoder2")
    tokenizer = open_tokenizer(tmp_path)
    text = "x =   1024 + 17\n"
    changed = transformers.AutoTokenizer.from_pretrained(tmp_path).encode(text)
    assert tokenizer.encode(text) != changed, "transformers keeps the file's pre-tokenizer: `_as_stored` can go"
    assert len(tokenizer.encode("1024")) == 4
    assert tokenizer.decode(tokenizer.encode(text)) == text
    (tmp_path / "student").mkdir()
    tokenizer.save(tmp_path / "student")
    _configured(tmp_path / "student", "starcoder2")
    plain = transformers.AutoTokenizer.from_pretrained(tmp_path / "student")
    assert plain.encode(text) == tokenizer.encode(text)
    assert open_tokenizer(tmp_path / "student").fingerprint == tokenizer.fingerprint


def test_the_mark_of_a_gap_is_no_token(tmp_path: Path) -> None:
    save_code_llama_tokenizer(tmp_path, 1500, 1_000_000, infilling=True)
    _configured(tmp_path, "llama")
    tokenizer = open_tokenizer(tmp_path)
    assert (tokenizer.vocabulary, tokenizer.document_start, tokenizer.end_ids) == (
        1500,
        (1,),
        (0, 2),
    )  # 0: by the configuration
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path)) == 1501, "`fill_token=None` can go"
    for text in ("  x", " x", "x ", "\n  x", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert [tokenizer.encode(text)] == tokenizer.encode_batch([text])
    stored = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("  x = 1") == stored.encode("  x = 1", add_special_tokens=False).ids
    assert tokenizer.has_token("▁<MID>")
    assert not tokenizer.has_token("<FILL_ME>")
    tokenizer.answer_ends = ("▁<EOT>", "<absent>")
    assert tokenizer.end_ids == (0, 2, 1499)
    (tmp_path / "student").mkdir()
    tokenizer.save(tmp_path / "student")
    _configured(tmp_path / "student", "llama")
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "student")) == 1500


def _changed_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize("offline", [False, True])
def test_a_saved_tokenizer_does_not_depend_on_how_it_was_opened(tmp_path: Path, offline: bool) -> None:
    save_tiny(tmp_path / "0")
    for number in range(2):
        open_tokenizer(tmp_path / str(number), offline=offline).save(tmp_path / str(number + 1))
    first, *others = ((tmp_path / str(number) / "tokenizer_config.json").read_bytes() for number in range(3))
    assert others == [first, first]


TOKENIZER_EDITS: dict[str, Callable[[Path], object]] = {
    "chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}", "utf-8"),
    "map": lambda folder: _changed_json(
        folder / "tokenizer.json",
        lambda content: content["model"]["merges"].pop() and content["model"]["vocab"].popitem(),
    ),
    "end of an answer": lambda folder: _changed_json(
        folder / "tokenizer_config.json", lambda content: content.update(eos_token="<fim_middle>")
    ),
}


@pytest.mark.parametrize("edit", TOKENIZER_EDITS)
def test_a_tokenizer_s_identity_follows_whatever_decides_what_a_model_is_given(edit: str, tmp_path: Path) -> None:
    save_starcoder2_tokenizer(tmp_path, 400, 50_000)
    _configured(tmp_path, "starcoder2")
    before = open_tokenizer(tmp_path)
    assert open_tokenizer(tmp_path).identity == before.identity
    TOKENIZER_EDITS[edit](tmp_path)
    assert open_tokenizer(tmp_path).identity != before.identity


@pytest.mark.parametrize("kind", [None, "GPT2Tokenizer", "LlamaTokenizer"])
def test_a_folder_without_a_tokenizer_is_told_in_a_sentence(tmp_path: Path, kind: str | None) -> None:
    tiny_model().save(tmp_path)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    if kind is not None:
        (tmp_path / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{kind}"}}', encoding="utf-8")
    with pytest.raises(kdtool.UsageError, match=r"has no tokenizer; copy tokenizer\.json"):
        open_model(tmp_path, offline=True)

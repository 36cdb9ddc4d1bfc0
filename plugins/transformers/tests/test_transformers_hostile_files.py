"""Damaged and lying model files: each is refused at once, by an error that names the file."""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from shutil import copytree
from typing import Any

import gguf
import kdtool
import numpy as np
import pytest
import torch
import transformers
from kdtool_export.gguf.files import write_gguf
from kdtool_testing.tiny_models import save_tiny, tiny_model
from kdtool_transformers import find_source, open_config, open_model, open_tokenizer, source_identity, vetting
from kdtool_transformers.gguf import read_gguf
from kdtool_transformers.limits import LimitedProcess
from kdtool_transformers.weights import require_fit
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model of four layers, and the same as GGUF."""
    folder = tmp_path_factory.mktemp("sound")
    model = save_tiny(folder / "model", vocabulary=258, hidden_size=64, head_dim=16)
    write_gguf(model, folder / "model.gguf", pre="smollm")
    return folder


@pytest.fixture
def model(sound_files: Path, tmp_path: Path) -> Path:
    return Path(copytree(sound_files / "model", tmp_path / "model"))


def _change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **values}), "utf-8")


def test_the_sound_model_is_opened(model: Path) -> None:
    opened = open_model(model, offline=True)
    assert opened.facts.layers == 4
    tokenizer = opened.tokenizer
    for encode in (tokenizer.encode, tokenizer.encode_template, lambda text: tokenizer.encode_batch(["a", text])):
        with pytest.raises(kdtool.UsageError, match=r"begins with 'xxx.* has 4,194,305 characters; .*: divide it"):
            encode("x" * (4 * 2**20 + 1))


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"num_attention_heads": 8}, r"config.json \S+o_proj.weight has the shape \(64, 128\), but \(64, 64\) is stored"),
    ({"num_key_value_heads": 4}, r"by config.json \S+k_proj.weight has the shape \(64, 64\), but \(32, 64\) is stored"),
    ({"hidden_size": "64"}, "'hidden_size' expected int, got str"),
    ({"hidden_size": -1}, "hidden size"),
    ({"hidden_size": 10_000_000}, r"has the shape \(258, 10000000\), but \(258, 64\) is stored"),
    ({"num_attention_heads": 0}, "ZeroDivisionError"),
    ({"num_hidden_layers": 1e400}, "'num_hidden_layers' expected int, got float"),
    ({"rope_parameters": {"rope_type": "helix", "rope_theta": 1e4}}, "helix"),
    ({"hidden_act": "nonsense"}, "nonsense"),
    ({"dtype": "nonsense"}, "nonsense"),
    ({"quantization_config": [1]}, "'list' object"),
]


@pytest.mark.parametrize(("values", "reason"), CONFIGS, ids=str)
def test_a_configuration_that_lies_is_refused(model: Path, values: dict[str, Any], reason: str) -> None:
    _change(model / "config.json", **values)
    with pytest.raises(kdtool.UsageError, match=rf"model/config\.json.*{reason}.*save.* again"):
        open_config(model, offline=True)


@pytest.mark.parametrize(
    "text", ["[1]", "[" * 100_000, '{"a":' * 100_000, "{", "", '{"a": "' + "x" * 33_000_000 + '"}']
)
def test_a_configuration_that_is_no_object_is_refused(model: Path, text: str) -> None:
    (model / "config.json").write_text(text, "utf-8")
    for opener in (open_config, open_tokenizer):
        with pytest.raises(kdtool.UsageError, match=r"model/config\.json cannot be read: .*expected a JSON object"):
            opener(model, offline=True)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_experts_implementation"])
def test_the_configuration_does_not_choose_code(model: Path, key: str) -> None:
    _change(model / "config.json", **{key: "evil-org/evil-kernel"})
    assert open_model(model, offline=True).facts.layers == 4


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "tokenizer_config.json", "additional_chat_templates/tools.jinja"]
)
def test_text_from_elsewhere_does_not_reach_a_student(model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text('{"chat_template": "a key"}', encoding="utf-8")
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(tmp_path / "secret")
    with pytest.raises(kdtool.StorageError, match=rf"{name} leads out of .*; expected a file in it; copy"):
        open_tokenizer(model, offline=True).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def _rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return write


def _transpose(weights: dict[str, torch.Tensor]) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = weights[name].T.contiguous()


def _cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size * 3 // 4)


def _lie(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")


def _index(*names: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        (folder / "other.safetensors").symlink_to(folder.parent / "outside.safetensors")
        mapping = {f"w{number}": name for number, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}), "utf-8")

    return write


WEIGHTS: list[tuple[Callable[[Path], None], str]] = [
    (_rewrite(_transpose), r"by config\.json \S+down_proj\.weight has the shape \(64, 48\), but \(48, 64\) is stored"),
    (
        _rewrite(lambda weights: weights.pop("model.norm.weight")),
        r"lacks 1 of the weights of LlamaForCausalLM \(model\.norm\.weight\)",
    ),
    (_cut, r"model\.safetensors is cut short or damaged: download it again"),
    (_lie, r"model\.safetensors is cut short or damaged: download it again"),
    (_index("../outside.safetensors"), r"index\.json names '\.\./outside\.safetensors'"),
    (_index("/tmp/outside.safetensors"), r"index\.json names '/tmp/outside\.safetensors'"),  # noqa: S108
    (_index("..\\outside.safetensors"), r"index\.json names"),
    (_index("pickled.bin"), r"index\.json names 'pickled\.bin'"),
    (_index(["other.safetensors"]), r"index\.json names"),
    (lambda folder: _change(folder / "config.json", num_hidden_layers=5), r"lacks 9 of the weights of .*layers\.4\."),
    (_index("absent.safetensors"), r"lacks absent\.safetensors, which model\.safetensors\.index\.json names"),
]


@pytest.mark.parametrize(("damage", "reason"), WEIGHTS)
def test_weights_that_do_not_fit_are_refused(model: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(model)
    for opener in (open_config, open_model):
        with pytest.raises(kdtool.KdtoolError, match=reason):
            opener(model, offline=True)


def test_weights_that_are_no_regular_file_are_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.unlink()
    for make in (os.mkfifo, lambda file: file.symlink_to("absent")):
        make(weights)
        with pytest.raises(kdtool.UsageError, match=r"model\.safetensors is missing or not a regular file"):
            source_identity(find_source(str(model)))
        with pytest.raises(kdtool.UsageError, match=r"model cannot be opened: .*no file named model\.safetensors"):
            open_model(model, offline=True)
        weights.unlink()


def test_an_index_may_name_links_that_leave_the_folder(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model.parent / "blob")
    (model / "one.safetensors").symlink_to(model.parent / "blob")
    mapping = dict.fromkeys(weights, "one.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": mapping}), "utf-8")
    assert open_model(model, offline=True).facts.layers == 4


def test_a_download_that_was_interrupted_can_go_on(model: Path) -> None:
    config = open_config(model, offline=True)
    _index("other.safetensors", "absent.safetensors")(model)
    require_fit(model, config, is_cache=True)


def _ids(count: int, each: int) -> Callable[[Path], None]:
    added = {"a": {"id": "a", "ids": [0] * each, "tokens": ["a"] * each}}
    pieces = [*[{"SpecialToken": {"id": "a", "type_id": 0}}] * count, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    processor = {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": added}
    return lambda folder: _change(folder / "tokenizer.json", post_processor=processor)


def _header(folder: Path) -> None:
    entries = {f"w{at}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]} for at in range(400_000)}
    text = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * len(entries)))


def _pattern(folder: Path) -> None:
    group = {"targets": ["re:(.*)*(.*)*(.*)*x$"], "weights": {"num_bits": 4, "type": "int"}}
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": group}}
    _change(folder / "config.json", quantization_config=settings)


BOMBS: dict[str, tuple[Callable[[Path], None], Callable[..., Any], str]] = {
    "layers": (lambda folder: _change(folder / "config.json", num_hidden_layers=10**6), open_tokenizer, "3 s"),
    "labels": (lambda folder: _change(folder / "config.json", num_labels=10**9), open_config, "(3 s|1,500 MB)"),
    "ids around a text": (_ids(100_000, 1000), open_tokenizer, "(3 s|1,500 MB)"),
    "a pattern of quantised layers": (_pattern, open_model, "3 s"),
    "names of weights": (_header, open_config, "3 s"),
}
IMPATIENT = LimitedProcess("kdtool_transformers.rehearsal", seconds=3, megabytes=1500, idle=30)


@pytest.mark.parametrize("name", BOMBS)
def test_a_folder_that_takes_too_much_is_refused_by_another_process(
    model: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vetting, "OPENER", IMPATIENT)
    damage, opener, limit = BOMBS[name]
    damage(model)
    with pytest.raises(kdtool.UsageError, match=rf"/model is not opened, since it takes more than {limit} .* again"):
        opener(model, offline=True)


def test_a_folder_is_tried_once_for_each_content(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    asked: list[Path] = []

    def ask(folder: str, **_: str) -> dict[str, str]:
        asked.append(Path(folder))
        return {}

    monkeypatch.setattr(vetting.OPENER, "ask", ask)
    again = Path(copytree(model, tmp_path / "again"))
    for folder in (model, again):
        open_model(folder, offline=True)
    _change(again / "generation_config.json", eos_token_id=1)
    open_tokenizer(again, offline=True)
    open_model(model, offline=True)
    assert asked == [model, again]
    (again / "additional_chat_templates").mkdir()
    (again / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}", encoding="utf-8")
    open_tokenizer(again, offline=True)
    assert asked == [model, again, again]


HANGING = "(.*)*(.*)*(.*)*x$"
ADAPTERS: list[tuple[dict[str, Any], str]] = [
    ({"exclude_modules": HANGING}, "adapter is not opened, since it takes more than 3 s"),
    ({"rank_pattern": {HANGING: 4}}, "adapter is not opened, since it takes more than 3 s"),
    ({"target_modules": HANGING}, "adapter is not opened, since it takes more than 3 s"),
    ({"r": 10**9}, "adapter is not opened, since it takes more than (3 s|1,500 MB)"),
    ({"rank_pattern": {"q_proj": 10**9}}, "adapter is not opened, since it takes more than (3 s|1,500 MB)"),
    ({"r": "4"}, "does not fit"),
    ({"r": 3}, "does not fit"),
    ({"peft_type": 5}, "does not fit"),
    ({"target_modules": ["q_proj", "v_proj"]}, "does not fit"),
]


@pytest.fixture(scope="module")
def saved_adapter(sound_files: Path) -> Path:
    peft = pytest.importorskip("peft")
    opened = open_model(sound_files / "model", offline=True).model
    with warnings.catch_warnings():  # peft 0.21 asks for an attribute that transformers renamed
        warnings.simplefilter("ignore", FutureWarning)
        joined = peft.get_peft_model(opened, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]))
    joined.save_pretrained(str(sound_files / "adapter"), save_embedding_layers=False)
    return sound_files / "adapter"


@pytest.fixture
def adapter(saved_adapter: Path, tmp_path: Path) -> Path:
    return Path(copytree(saved_adapter, tmp_path / "adapter"))


@pytest.mark.parametrize(("values", "reason"), ADAPTERS, ids=str)
def test_an_adapter_that_lies_is_refused(
    model: Path, adapter: Path, values: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_model(model, offline=True, adapter=adapter)
    monkeypatch.setattr(vetting, "OPENER", IMPATIENT)
    _change(adapter / "adapter_config.json", **values)
    with pytest.raises(kdtool.UsageError, match=reason):
        open_model(model, offline=True, adapter=adapter)


def test_an_adapter_without_its_weights_is_refused(model: Path, adapter: Path) -> None:
    for stored in ({}, {"elsewhere": torch.ones(4, 4)}):
        save_file(stored, adapter / "adapter_model.safetensors")
        with pytest.raises(kdtool.UsageError, match="does not fit"):
            open_model(model, offline=True, adapter=adapter)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _gguf(pairs: list[bytes], tensors: list[bytes], rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join([*pairs, *tensors]) + rest


def _tensor(*dimensions: int, kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in dimensions)
    return _text("t") + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)


KIND = _pair("general.architecture", 8, _text("llama"))
NESTED = struct.pack("<IQ", 9, 1) * 50 + struct.pack("<IQ", 0, 0)
GGUF: dict[str, bytes] = {
    "empty": b"",
    "no magic": b"x" * 100,
    "version": b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
    "counts": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60),
    "array length": _gguf([_pair("a", 9, struct.pack("<IQ", 0, 2**60))], []),
    "array of texts": _gguf([_pair("a", 9, struct.pack("<IQ", 8, 2**60))], []),
    "array within the limit": _gguf([_pair("a", 9, struct.pack("<IQ", 8, 900_000))], []),
    "nested arrays": _gguf([_pair("a", 9, NESTED)], []),
    "text length": _gguf([struct.pack("<Q", 2**63)], []),
    "type of a value": _gguf([_pair("a", 77, b"12345678")], []),
    "no text": _gguf([_pair("general.architecture", 8, struct.pack("<Q", 2) + b"\xff\xfe")], []),
    "missing keys": _gguf([], []),
    "dimensions": _gguf([KIND], [_tensor(*[2] * 60)]),
    "shape": _gguf([KIND], [_tensor(2**40, 2**40)], b"\0" * 999),
    "offset": _gguf([KIND], [_tensor(2, 2, offset=2**62)], b"\0" * 999),
    "type of a tensor": _gguf([KIND], [_tensor(2, 2, kind=999)], b"\0" * 999),
    "alignment": _gguf([KIND, _pair("general.alignment", 4, struct.pack("<I", 0))], []),
}


@pytest.mark.parametrize("name", [*GGUF, "cut to 10 %", "cut to 75 %", "cut by a byte"])
def test_a_gguf_file_that_lies_or_is_cut_short_is_refused(
    sound_files: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    whole = (sound_files / "model.gguf").read_bytes()
    cut = {"cut to 10 %": len(whole) // 10, "cut to 75 %": len(whole) * 3 // 4, "cut by a byte": len(whole) - 1}
    file = tmp_path / "hostile.gguf"
    file.write_bytes(GGUF[name] if name in GGUF else whole[: cut[name]])
    for opener in (find_source, open_tokenizer):
        with pytest.raises(
            kdtool.UsageError, match=r"hostile\.gguf is cut short or damaged \(.*\); .*: download it again"
        ):
            opener(str(file))


def _rewrite_gguf(source: Path, target: Path, **changes: Any) -> Path:
    """Copy a GGUF file with other metadata, and with other tensors or without some (None)."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        kind, value = field.types[0], changes.pop(key, field.contents())
        if value is not None and not key.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(key, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    for name in [name for name in changes if name in tensors or name.endswith((".weight", ".bias"))]:
        tensors[name] = changes.pop(name)
    for name, data in tensors.items():
        if data is not None:
            writer.add_tensor(name, data)
    for key, value in changes.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.STRING)
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return target


def _zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


TOKENS = "tokenizer.ggml.token"
LIES: list[tuple[dict[str, Any], str]] = [
    ({"llama.block_count": 5}, "block_count is 5, but it has tensors of 4 blocks"),
    ({"llama.block_count": 3}, "block_count is 3, but it has tensors of 4 blocks"),
    ({"llama.block_count": 10**9}, "block_count is 1000000000, but it has tensors of 4 blocks"),
    ({"llama.block_count": None}, "block_count is None, but"),
    ({"llama.embedding_length": 128}, r"\[\d+, 64\], expected \[\d+, 128\]"),
    ({"llama.embedding_length": 65}, "hidden size .65. is not a multiple of the number of attention heads .4."),
    ({"llama.embedding_length": None}, r"\[\d+, 64\], expected \[\d+, 4096\]"),
    ({"llama.feed_forward_length": 49}, "feed_forward_length is 49, expected 48"),
    ({"llama.attention.head_count": 8}, "head_count is 8, expected 4"),
    ({"llama.attention.head_count_kv": 4}, r"attn_k is \[32, 64\], expected \[64, 64\]"),
    ({"llama.attention.key_length": 32}, "head_count is 4, expected 2"),
    ({"llama.attention.value_length": 8}, "value_length is 8, expected 16"),
    ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8, expected 16"),
    ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type is yarn, expected none"),
    ({"llama.vocab_size": 300}, "vocab_size is 300, expected 258"),
    ({f"{TOKENS}s": [*map(str, range(260))], f"{TOKENS}_type": [1] * 260}, "260 tokens, but token_embd has 258 rows"),
    ({f"{TOKENS}s": ["a"] * 9}, "list of tokens ends after 9, but that of token_type after 258"),
    ({f"{TOKENS}_type": [1] * 9}, "list of tokens ends after 258, but that of token_type after 9"),
    ({"tokenizer.ggml.eos_token_id": 258}, "list of tokens ends after 258, but eos_token_id is 258"),
    ({"token_embd.weight": None}, "token_embd"),
    ({"output_norm.weight": None}, "output_norm is missing"),
    ({"blk.3.ffn_down.weight": None}, r"blk\.3\.ffn_down is missing"),
    ({"blk.0.attn_q.bias": _zeros(64)}, r"no place for blk\.0\.attn_q\.bias \[64\]"),
    ({"rope_freqs.weight": _zeros(8)}, r"no place for rope_freqs \[8\]"),
    ({"blk.1.ffn_down.weight": _zeros(48, 64)}, r"ffn_down is \[48, 64\], expected \[64, 48\] by the metadata"),
    ({"output.weight": _zeros(260, 64)}, r"output is \[260, 64\], expected \[258, 64\]"),
]


@pytest.mark.parametrize(
    ("changes", "reason"), LIES, ids=lambda value: ",".join(value) if isinstance(value, dict) else ""
)
def test_a_gguf_file_whose_metadata_and_tensors_disagree_is_refused(
    sound_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)  # before weights are read
    file = _rewrite_gguf(sound_files / "model.gguf", tmp_path / "hostile.gguf", **changes)
    with pytest.raises(kdtool.UsageError, match=rf"hostile\.gguf cannot be converted: .*{reason}.*; download it again"):
        find_source(str(file))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_rows_that_pad_an_embedding_are_not_tokens(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    made = tiny_model(family, vocab_size=320)
    made.model.get_output_embeddings().weight.data[made.tokenizer.vocabulary :] *= 100  # they would always be chosen
    made.save(tmp_path / "folder")
    file = write_gguf(made, tmp_path / "made.gguf", pre="smollm")
    reads: list[Path] = []

    def read(file: Path) -> gguf.GGUFReader:
        reads.append(file)
        return read_gguf(file)

    monkeypatch.setattr("kdtool_transformers.gguf.read_gguf", read)
    unnamed = _rewrite_gguf(
        file,
        tmp_path / "unnamed.gguf",
        **{
            f"tokenizer.ggml.{key}": gguf.GGUFReader(file).fields[f"tokenizer.ggml.{key}"].contents()[: 257 + 1]
            for key in ("tokens", "token_type")
        },
    )
    for source in (tmp_path / "folder", file, unnamed):
        opened = open_model(find_source(str(source), say=lambda _: None).place, dtype=torch.float32)
        assert opened.tokenizer.tokens() == made.tokenizer.tokens()
        assert (opened.head.vocabulary, len(opened.head.weight)) == (257, 320)
        prompts = [opened.tokenizer.encode("x = ")] * 2
        for new in opened.generate(prompts, [8, 8], 1.0, [0, 1]) + opened.generate(prompts, [8, 8], 0.0, [0, 0]):
            assert max(new) < 257
        again = write_gguf(opened, tmp_path / "again.gguf", pre="smollm")
        assert open_tokenizer(again).tokens() == made.tokenizer.tokens()
    assert [read for read in reads if read != again] == [file, unnamed], "the header is read once in a conversion"

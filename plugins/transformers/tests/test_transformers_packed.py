"""Packed rows against each document alone, family by family, and the pieces of a wrapped model.

Weights that are converted one by one: same values, and nothing kept of the file that they were read from.

Experts are multiplied in the precision of autocast.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import transformers as t
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch import Documents, release_mapping, self_check, widen
from kdtool_torch.model import _TOLERANCE, _deviations
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model, open_tokenizer
from kdtool_transformers import model as model_module
from kdtool_transformers.attention import IMPLEMENTATION
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

V = 257
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen2 window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "starcoder2": {"sliding_window": None},
    "starcoder2 window": {"sliding_window": 9},
    "gpt2": {},
    "gemma2": {"head_dim": 8, "sliding_window": 9, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.3},
    "cohere": {"logit_scale": 0.25},
}


def without_documents(positions: torch.Tensor, document: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and documents of rows that are a single document each."""
    return torch.arange(positions.shape[1]).expand_as(positions), torch.zeros_like(document)


def model(family: str, **settings: Any) -> TransformersModel:
    return tiny_model(family.partition(" ")[0], 3, **FAMILIES[family], **settings)


def packed(lengths: list[list[int]], length: int, seed: int = 0) -> kdtool.Batch:
    """Rows of documents of these lengths, padded with -1 up to `length`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (len(lengths), length), generator=generator)
    positions, document = torch.zeros_like(ids), torch.full_like(ids, -1, dtype=torch.int32)
    for row, sizes in enumerate(lengths):
        start = 0
        for number, size in enumerate(sizes):
            positions[row, start : start + size] = torch.arange(size)
            document[row, start : start + size] = number
            start += size
    labels = torch.where(document >= 0, ids, -100)
    return kdtool.Batch(ids, positions, labels, document, tuple("abcdefgh"[: len(lengths)]))


def alone(wrapped: TransformersModel, batch: kdtool.Batch, lengths: list[list[int]]) -> torch.Tensor:
    """Logits of each document by the plain model, with transformers' sdpa or eager attention."""
    parts = []
    for row, sizes in enumerate(lengths):
        documents = torch.split(batch.input_ids[row, : sum(sizes)], sizes)
        parts += [wrapped.model(input_ids=part[None], use_cache=False).logits[0] for part in documents]
    return torch.cat(parts)


LENGTHS = [[150, 1, 49, 50], [250, 30], [3, 5, 128], [16] * 16]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_equal_documents_alone_with_gradients(family: str) -> None:
    wrapped = model(family)
    assert wrapped.model.config._attn_implementation == IMPLEMENTATION
    batch = packed(LENGTHS, 290)
    logits = wrapped.head.logits(wrapped.backbone(batch, kdtool.SignalRequest()).last)
    expected = alone(wrapped, batch, LENGTHS)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-4)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    parameters = [p for p in wrapped.model.parameters() if p.requires_grad]
    got = torch.autograd.grad((logits * weights).sum(), parameters)
    want = torch.autograd.grad((expected * weights).sum(), parameters)
    for one, other in zip(got, want, strict=True):
        assert float((one - other).norm()) <= 1e-3 * float(other.norm()) + 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bfloat16_is_close(family: str) -> None:
    wrapped, exact, batch = model(family), model(family), packed(LENGTHS, 290)
    wrapped.model.bfloat16()
    with torch.no_grad():
        logits = wrapped.head.logits(wrapped.backbone(batch, kdtool.SignalRequest()).last).float()
        expected = alone(exact, batch, LENGTHS)
    assert float((logits - expected).square().mean().sqrt() / expected.std()) < 0.05


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=4), min_size=1, max_size=3), st.integers(0, 40))
def test_padding_and_neighbours_change_nothing(lengths: list[list[int]], padding: int) -> None:
    wrapped = _LLAMA
    longest = max(map(sum, lengths))
    with torch.no_grad():
        batch = packed(lengths, longest + padding)
        last = wrapped.backbone(batch, kdtool.SignalRequest()).last
        expected = alone(wrapped, batch, lengths)
    torch.testing.assert_close(wrapped.head.logits(last), expected, rtol=1e-4, atol=2e-4)


_LLAMA = model("llama")


def test_layers_with_a_state_read_one_document_per_row() -> None:
    wrapped = tiny_model(
        "granitemoehybrid", 3, layer_types=["mamba", "attention", "mamba"], num_local_experts=0, num_experts_per_tok=0,
        mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=16, shared_intermediate_size=48,
    )  # fmt: skip
    with torch.no_grad():
        assert wrapped.backbone(packed([[20], [12]], 20), kdtool.SignalRequest()).last.shape[0] == 32
        with pytest.raises(kdtool.UsageError, match="state passes from one document of a row to the next"):
            wrapped.backbone(packed([[9, 15]], 24), kdtool.SignalRequest())


@pytest.mark.parametrize("family", FAMILIES)
def test_self_check_passes_and_finds_a_wrong_head(family: str) -> None:
    wrapped = model(family)
    assert self_check(wrapped) < 1e-4
    setattr(wrapped.model.config, "logit_scale" if family == "granite" else "logits_scaling", 3.0)
    with pytest.raises(kdtool.PluginError, match="head is not what"):
        self_check(wrapped)


@pytest.mark.parametrize("frozen", [False, True], ids=["float32", "bfloat16 embeddings"])
def test_self_check_of_a_model_that_amplifies_rounding(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = model("llama")
    with torch.no_grad():
        for name, weight in wrapped.model.named_parameters():
            weight.mul_(40.0 if "q_proj" in name or "k_proj" in name else 8.0 if "_proj" in name else 1.0)
    if frozen:
        embeddings = wrapped.model.get_input_embeddings().weight
        embeddings.data = embeddings.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        monkeypatch.setitem(_TOLERANCE, "bfloat16", 1e-2)
        assert max(_deviations(wrapped)) > 1e-2, "else this test shows nothing"
        assert self_check(wrapped) < 1e-3
        assert wrapped.model.get_input_embeddings().weight.dtype == (torch.bfloat16 if frozen else torch.float32)
        monkeypatch.setattr(model_module, "Documents", lambda *rows: Documents(*without_documents(*rows)))
        with pytest.raises(kdtool.PluginError, match="documents see each other"):
            self_check(wrapped)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_hidden_states_and_attention_maps(family: str) -> None:
    wrapped, batch = model(family), packed([[20]], 20)
    want = kdtool.SignalRequest(kinds=frozenset({"hidden", "attentions"}), layers=(0, 1))
    got = wrapped.backbone(batch, want)
    plain = t.AutoModelForCausalLM.from_config(wrapped.model.config, attn_implementation="eager").eval()
    plain.load_state_dict(wrapped.model.state_dict())
    expected = plain(input_ids=batch.input_ids, output_hidden_states=True, output_attentions=True)
    for layer in (0, 1):
        torch.testing.assert_close(got.hidden[layer], expected.hidden_states[layer + 1][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.attentions[layer], expected.attentions[layer], rtol=1e-4, atol=1e-4)
    assert not any(module._forward_hooks for module in wrapped.model.modules())


GIVEN: dict[int, tuple[torch.Tensor, ...]] = {}
"""Arguments that plain models passed to the attention "spy", by layer."""


def _spy(module: Any, query: Any, key: Any, value: Any, mask: Any, softcap: Any = None, **settings: Any) -> Any:
    GIVEN[module.layer_idx] = (query, key, value)
    return sdpa_attention_forward(module, query, key, value, mask, **settings)


t.AttentionInterface.register("spy", _spy)
t.AttentionMaskInterface.register("spy", sdpa_mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_are_what_a_plain_model_of_each_document_gives_to_attention(family: str) -> None:
    wrapped, lengths = model(family), [[7, 13], [12, 5]]
    batch = packed(lengths, 20)
    got = wrapped.backbone(batch, kdtool.SignalRequest(kinds=frozenset({"projections"}), layers=(0, 2)))
    assert (sorted(got.projections), got.attentions, got.hidden) == ([0, 2], {}, {})
    plain = t.AutoModelForCausalLM.from_config(wrapped.model.config, attn_implementation="spy").eval()
    plain.load_state_dict(wrapped.model.state_dict())
    layer = 0 if family == "gemma2" else 2  # the spy has no soft cap, which changes later layers
    for row, sizes in enumerate(lengths):
        start = 0
        for size in sizes:
            own = slice(start, start + size)
            plain(input_ids=batch.input_ids[row : row + 1, own], use_cache=False)
            for found, expected in zip(got.projections[layer], GIVEN[layer], strict=True):
                side_by_side = expected[0].transpose(0, 1).reshape(size, -1)
                torch.testing.assert_close(found[row, own], side_by_side, rtol=1e-4, atol=1e-4)
            start += size


def test_projections_and_maps_of_a_model_with_its_own_attention_are_refused() -> None:
    wrapped = model("llama")
    wrapped.model.set_attn_implementation("eager")
    kinds: tuple[kdtool.SignalKind, ...] = ("projections", "attentions")
    for kind in kinds:
        with pytest.raises(kdtool.PluginError, match="are not available"):
            wrapped.backbone(packed([[8]], 8), kdtool.SignalRequest(kinds=frozenset({kind}), layers=(0,)))


INSIDE: dict[kdtool.SignalKind, Callable[[kdtool.ModelOutputs], list[torch.Tensor]]] = {
    "hidden": lambda outputs: list(outputs.hidden.values()),
    "attentions": lambda outputs: list(outputs.attentions.values()),
    "projections": lambda outputs: [heads for own in outputs.projections.values() for heads in own],
}


def _gradients(wrapped: TransformersModel, *kinds: kdtool.SignalKind) -> list[torch.Tensor]:
    got = wrapped.backbone(packed([[30, 20]], 50), kdtool.SignalRequest(kinds=frozenset(kinds), layers=(1,)))
    loss = got.last.sum() + sum(inside.square().sum() for kind in kinds for inside in INSIDE[kind](got))
    parameters = [p for p in wrapped.model.base_model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(torch.as_tensor(loss), parameters))


def test_activation_checkpointing_gives_the_same_gradients_and_reentrant_is_refused() -> None:
    wrapped = model("llama")
    wrapped.model.train()
    expected = _gradients(wrapped, *INSIDE)
    wrapped.model.activation_checkpointing_enable({"use_reentrant": False})
    for one, other in zip(_gradients(wrapped, *INSIDE), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    wrapped.model.activation_checkpointing_enable({"use_reentrant": True})
    wrapped.model.enable_input_require_grads()
    kinds: tuple[kdtool.SignalKind, ...] = ("attentions", "projections")
    for kind in kinds:
        with pytest.raises(kdtool.PluginError, match="use_reentrant"):
            _gradients(wrapped, kind)


def test_what_is_collected_goes_with_the_outputs_under_checkpointing_too() -> None:
    """The graph holds the documents for its second pass: they must not hold what the graph gave."""
    wrapped = model("llama")
    wrapped.model.train()
    wrapped.model.activation_checkpointing_enable({"use_reentrant": False})
    gc.collect()
    gc.disable()
    try:
        got = wrapped.backbone(packed([[20]], 20), kdtool.SignalRequest(kinds=frozenset(INSIDE), layers=(1,)))
        alive = [weakref.ref(inside) for kind in INSIDE.values() for inside in kind(got)]
        del got
        assert len(alive) == 5
        assert not [one for one in alive if one() is not None]
    finally:
        gc.enable()


def test_dropout_is_honoured() -> None:
    wrapped = model("llama", attention_dropout=0.5)
    wrapped.model.train()
    batch = packed([[40]], 40)
    first, second = (wrapped.backbone(batch, kdtool.SignalRequest()).last for _ in range(2))
    assert not torch.equal(first, second)


def test_a_saved_folder_opens_with_plain_transformers(tmp_path: Path) -> None:
    wrapped = model("llama")
    wrapped.copied_layers = (0, 2, 5)
    wrapped.save(tmp_path)
    assert IMPLEMENTATION not in json.loads((tmp_path / "config.json").read_text(encoding="utf-8")).values()
    ids = packed([[12]], 12).input_ids
    script = (
        "import sys, torch, transformers as t\n"
        f"m = t.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}).eval()\n"
        f"t.AutoTokenizer.from_pretrained({str(tmp_path)!r})\n"
        f"print(m(input_ids=torch.tensor({ids.tolist()})).logits.abs().double().sum().item())\n"
        "assert not [name for name in sys.modules if name.startswith('kdtool')]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(
        float(wrapped.model(input_ids=ids).logits.detach().abs().double().sum()), rel=1e-4
    )
    again = open_model(tmp_path)
    assert again.facts == wrapped.facts
    assert again.facts.copied_layers == (0, 2, 5)
    assert open_tokenizer(tmp_path).fingerprint == wrapped.tokenizer.fingerprint


def test_a_tokenizer_larger_than_the_head_is_refused() -> None:
    with pytest.raises(kdtool.UsageError, match=r"257 tokens.* only 97 rows"):
        model("llama", vocabulary=97)


def test_padding_of_the_vocabulary_never_reaches_the_logits() -> None:
    wrapped = model("llama", vocabulary=300)
    last = wrapped.backbone(packed([[12]], 12), kdtool.SignalRequest()).last
    assert wrapped.head.logits(last).shape == (12, 257)
    assert self_check(wrapped) < 1e-4


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere mapped files are left to the system")


def half(folder: Path, dtype: torch.dtype = torch.bfloat16) -> TransformersModel:
    """Return a model of half precision whose weights lie in a file of some megabytes."""
    saved = tiny_model("llama", hidden_size=256, intermediate_size=1024, tie_word_embeddings=True)
    saved.model.to(dtype)
    saved.save(folder)
    return open_model(folder)


def resident(folder: Path) -> int:
    """Return how many bytes of the weights' file this process has in memory."""
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text("utf-8"), flags=re.MULTILINE)
    found = [entry for entry in entries if str(folder / "model.safetensors") in entry]
    return sum(int(size) * 1024 for entry in found for size in re.findall(r"^Rss:\s*(\d+) kB", entry, re.MULTILINE))


def touch(model: TransformersModel) -> float:
    return sum(float(parameter.detach().float().sum()) for parameter in model.model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_widened_weights_are_what_they_were(dtype: torch.dtype, tmp_path: Path) -> None:
    model = half(tmp_path, dtype)
    before = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    parameters = dict(model.model.named_parameters())
    widen(model.model)
    after = dict(model.model.named_parameters())
    assert all(after[name] is parameters[name] for name in before)
    assert {parameter.dtype for parameter in after.values()} == {torch.float32}
    assert all(after[name].equal(before[name].float()) for name in before)
    assert model.head.weight is model.model.get_input_embeddings().weight


@LINUX
def test_a_runtime_that_computes_in_float32_keeps_no_pages_of_the_file(tmp_path: Path) -> None:
    model = half(tmp_path)
    touch(model)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert resident(tmp_path) > 0.9 * size
    kept = model.model.get_parameter("model.norm.weight").data  # one tensor is enough to keep the file mapped
    list(TransformersRuntime(model, torch.float32).score(["a = 1\n"]))
    assert model.head.weight.dtype == torch.float32
    assert resident(tmp_path) < 0.1 * size
    assert kept.float().equal(model.model.get_parameter("model.norm.weight").data)


@LINUX
def test_pages_that_were_dropped_are_read_again(tmp_path: Path) -> None:
    model = half(tmp_path)
    before = touch(model)
    for parameter in model.model.parameters():
        release_mapping(parameter.data)
    assert touch(model) == before


def test_other_memory_is_left_as_it_is() -> None:
    weight = torch.ones(1 << 20)
    for part in (weight, weight[1:], weight[:5]):
        release_mapping(part)
    assert bool((weight == 1).all())


class GroupedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the dtypes of the operands of grouped products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._grouped_mm.default:
            self.dtypes |= {args[0].dtype, args[1].dtype}
            self.count += 1
        return func(*args, **(kwargs or {}))


def learn(dtype: torch.dtype) -> tuple[dict[str, Tensor], GroupedProducts]:
    """Return the gradients of a student with experts under autocast to `dtype`, and its grouped products."""
    student: TransformersModel = tiny_model("mixtral", layers=2, num_local_experts=4, num_experts_per_tok=2)
    ids = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(0))
    with GroupedProducts() as products:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = student.model(ids, labels=ids).loss
        loss.backward()
    return {name: weight.grad for name, weight in student.model.named_parameters() if weight.grad is not None}, products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_experts_are_multiplied_in_the_precision_of_autocast(dtype: torch.dtype) -> None:
    _, products = learn(dtype)
    assert products.count >= 4
    assert products.dtypes == {dtype}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21 asks for it
def test_an_adapter_on_experts_learns() -> None:
    peft = pytest.importorskip("peft")
    student: TransformersModel = tiny_model("mixtral", layers=2, num_local_experts=4, num_experts_per_tok=2)
    settings = peft.LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])
    model = peft.get_peft_model(student.model, settings)
    ids = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        model(ids, labels=ids).loss.backward()
    learned = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(learned) == 4
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in learned.values())


def test_their_weights_learn_in_float32() -> None:
    (exact, _), (found, _) = learn(torch.float32), learn(torch.bfloat16)
    assert found.keys() == exact.keys()
    experts = [name for name in exact if "experts" in name]
    assert experts
    for name in experts:
        assert found[name].dtype == torch.float32
        assert float((found[name] - exact[name]).norm()) < 0.05 * float(exact[name].norm())

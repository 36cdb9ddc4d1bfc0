"""LoRA and QLoRA: only adapters learn, frozen weights stay to the bit, and what is merged computes what was trained.

liger's kernels in a model: which modules get them, what they must compute, and that all is as before afterwards.

On a machine without a GPU plain torch stands in for the kernels: then tests show what is replaced and restored, and nothing
of the kernels themselves. Tests marked `gpu` run the kernels, where there is a GPU with liger-kernel.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import gradients, greatest_difference, save_tiny, tiny_model
from kdtool_torch import self_check
from kdtool_transformers import TransformersModel, fast_layers, nf4, open_model, outline_of
from kdtool_transformers.nf4 import dequantise
from kdtool_transformers.transforms import Liger, Lora, Qlora
from safetensors.torch import load_file
from torch import Tensor
from transform_students import SmallConformance, away, learn, logits, start, structure
from transformers import AutoModelForCausalLM

Q = "model.layers.1.self_attn.q_proj"
both_kinds = pytest.mark.parametrize("kind", [Lora, Qlora])


class TestLoraConforms(SmallConformance):
    component = Lora
    entry_point = "lora"


class TestQloraConforms(SmallConformance):
    component = Qlora
    entry_point = "qlora"
    lossless = False  # weights are rounded to 4 bits


def frozen(model: Any) -> dict[str, torch.Tensor]:
    """Return every stored number that is not to learn: weights, packed weights, and the scales of their blocks."""
    found = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    for name, module in model.named_modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            found |= {f"{name}.{part}": value.clone() for part, value in state.as_dict(packed=True).items()}
    return found


def product_of(student: TransformersModel, name: str, scale: float) -> torch.Tensor:
    """Return what an adapter adds to the weight of its layer."""
    layer = student.model.get_submodule(name)
    product: torch.Tensor = scale * layer.lora_B.default.weight @ layer.lora_A.default.weight
    return product.detach()


@both_kinds
def test_adapters_learn_and_all_else_stays_to_the_bit(kind: type[Lora], tmp_path: Path) -> None:
    student = tiny_model("qwen2")
    start(kind, student, tmp_path, r=8, alpha=32, dropout=0.1, targets=["q_proj", "v_proj"])
    names = {name for name, p in student.model.named_parameters() if p.requires_grad}
    assert len(names) == 4 * 2 * 2  # layers, q and v, A and B
    assert all("lora_" in name for name in names)
    before, head = frozen(student.model), student.head.weight
    self_check(student)
    logits(student.model)  # evaluating must not reorder packed weights either
    assert learn(student).keys() == names
    after = frozen(student.model)
    assert before.keys() == after.keys()
    assert any(".absmax" in name for name in before) == (kind is Qlora)
    assert all(before[name].equal(after[name]) for name in before)
    assert student.head.weight is head
    assert all(bool(p.any()) for name, p in student.model.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2", "gpt2", "gemma2"])
def test_lora_merges_into_a_plain_model_that_transformers_opens(family: str, tied: bool, tmp_path: Path) -> None:
    student, plain = (tiny_model(family, tie_word_embeddings=tied) for _ in range(2))
    training = start(Lora, student, tmp_path, r=4)
    learn(student)
    learnt = logits(student.model)
    assert away(learnt, logits(plain.model)) > 0.1
    next(training, None)
    assert structure(student) == structure(plain)
    assert student.facts == plain.facts
    student.save(tmp_path / "model")
    assert away(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), learnt) < 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2"])
def test_qlora_saves_dequantised_weights_plus_adapters(family: str, tmp_path: Path) -> None:
    import bitsandbytes.functional as bnb

    student, plain = (tiny_model(family) for _ in range(2))
    training = start(Qlora, student, tmp_path, r=4, targets=["q_proj"])
    assert away(logits(student.model), logits(plain.model)) > 0.01  # 4 bits are not all bits
    learn(student)
    learnt, product = logits(student.model), product_of(student, Q, 16 / 4)
    next(training, None)
    student.save(tmp_path / "model")
    assert away(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), learnt) < 1e-4

    def rounded(name: str) -> torch.Tensor:
        weight = plain.model.get_submodule(name).weight.data
        return bnb.dequantize_4bit(*bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True))

    stored = load_file(tmp_path / "model" / "model.safetensors")
    k, embeddings = "model.layers.1.self_attn.k_proj", "model.embed_tokens"
    torch.testing.assert_close(stored[f"{Q}.weight"], rounded(Q) + product)
    assert stored[f"{k}.weight"].equal(rounded(k))
    assert stored[f"{embeddings}.weight"].equal(plain.model.get_submodule(embeddings).weight)


def test_alpha_scales_the_product(tmp_path: Path) -> None:
    student, plain = tiny_model(), tiny_model()
    training = start(Lora, student, tmp_path, r=4, alpha=32, targets=["q_proj"])
    learn(student)
    expected = plain.model.get_submodule(Q).weight.detach() + product_of(student, Q, 32 / 4)
    next(training, None)
    torch.testing.assert_close(student.model.get_submodule(Q).weight.data, expected)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own call
@pytest.mark.parametrize("built_from", ["owner/name", ""])
def test_a_kept_adapter_names_its_base_and_its_card_opens_both(
    built_from: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save_tiny(tmp_path / "before")
    saved.built_from = built_from
    saved.save(tmp_path / "before")
    student, said = open_model(tmp_path / "before"), list[str]()
    run = make_run(tmp_path / "run", say=said.append)
    training = start(Lora, student, tmp_path, run, r=4, keep_adapter=True)
    learn(student)
    learnt = logits(student.model)
    next(training, None)
    folder, base = run.folder / "adapter", built_from or str(tmp_path / "before")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == base
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert ("\nbase_model: owner/name\n" in card) == bool(built_from)
    assert "\nlibrary_name: peft\n" in card
    assert any(str(folder) in line for line in said)
    modes = {file.name: file.stat().st_mode for file in folder.iterdir()}
    assert modes["adapter_model.safetensors"] == modes["README.md"]
    if not built_from:  # the lines that a user would copy
        found: dict[str, Any] = {}
        monkeypatch.chdir(folder)
        exec(card.partition("```python\n")[2].partition("```")[0], found)  # noqa: S102
        assert away(logits(found["model"]), learnt) < 1e-4


def half(folder: Path, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> TransformersModel:
    """Return a student in half precision, whose weights lie in a file."""
    saved = tiny_model(**settings)
    saved.model.to(dtype)
    saved.save(folder)
    return open_model(folder)


@both_kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_student_in_half_precision_keeps_it_and_its_file_is_as_it_was(
    kind: type[Lora], dtype: torch.dtype, tmp_path: Path
) -> None:
    student = half(tmp_path / "before", dtype)
    file = tmp_path / "before" / "model.safetensors"
    written = file.read_bytes()
    training = start(kind, student, tmp_path, r=4)
    for parameter in student.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as trainers do
    with torch.autocast("cpu", dtype):
        learn(student)
    base = student.model.get_submodule(Q).base_layer
    before = base.weight.data.float() if kind is Lora else dequantise(base)
    expected = (before + product_of(student, Q, 16 / 4)).to(dtype)
    next(training, None)
    assert {p.dtype for p in student.model.parameters()} == {dtype}
    assert student.model.get_parameter(f"{Q}.weight").equal(expected)
    assert file.read_bytes() == written


@both_kinds
def test_layers_that_share_a_weight_written_before_learn_alike(kind: type[Lora], tmp_path: Path) -> None:
    """As after a phase of adapters, whose product lies in the mapped file's memory."""
    student = half(tmp_path / "before", hidden_size=128)
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in (0, 1)]
    first, second = (student.model.get_submodule(name) for name in names)
    second.weight = first.weight
    with torch.no_grad():
        first.weight.mul_(2)
    written = first.weight.detach().float()
    start(kind, student, tmp_path, r=4)
    for name in names:
        base = student.model.get_submodule(name).base_layer
        assert away(base.weight.data.float() if kind is Lora else dequantise(base), written) < 0.2


def test_4_bits_are_computed_with_in_the_dtype_of_autocast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny_model("qwen2")
    start(Qlora, student, tmp_path, r=4)
    biases = {name: p.clone() for name, p in student.model.named_parameters() if name.endswith("bias")}
    found: set[tuple[torch.dtype, torch.dtype]] = set()

    def product(x: torch.Tensor, weight: Any, bias: Any, quant_state: Any) -> Any:
        found.add((x.dtype, quant_state.dtype))
        return matmul(x, weight, bias=bias, quant_state=quant_state)

    matmul: Any = nf4.matmul_4bit  # type: ignore[attr-defined]
    monkeypatch.setattr(nf4, "matmul_4bit", product)
    for dtype in (torch.bfloat16, torch.float32):
        found.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            learn(student, steps=1)
        assert found == {(dtype, dtype)}
    assert biases, "Qwen2 has some"
    assert all(student.model.get_parameter(name).equal(bias) for name, bias in biases.items())


@pytest.mark.parametrize("broken", ["scaled", "not finite"])
@both_kinds
def test_a_merge_that_changes_the_model_is_refused(kind: type[Lora], broken: str, tmp_path: Path) -> None:
    student = tiny_model()
    training = start(kind, student, tmp_path, r=4)
    learn(student)
    for module in student.model.modules():
        if hasattr(module, "get_delta_weight"):
            product, factor = module.get_delta_weight, 1.1 if broken == "scaled" else float("nan")
            module.get_delta_weight = lambda name, product=product, factor=factor: factor * product(name)
    with pytest.raises(kdtool.PluginError, match="merging the adapters changed the logits of LlamaForCausalLM"):
        next(training, None)


class _Own(torch.nn.Linear):
    """A layer that computes otherwise."""


def _changed() -> TransformersModel:
    student = tiny_model()
    student.model.set_submodule("model.layers.0.self_attn.q_proj", _Own(32, 32))
    return student


def _adapted() -> TransformersModel:
    student = tiny_model()
    start(Lora, student, Path())
    return student


REFUSED: list[tuple[type[Lora], list[str], Callable[[], TransformersModel], str]] = [
    (
        Lora,
        ["q_prj"],
        tiny_model,
        "'q_prj': no layer has this name; linear layers of this student are down_proj, .*, v",
    ),
    (Qlora, ["q_prj"], tiny_model, "'q_prj': no layer has this name"),
    (Lora, ["q_proj", "lm_head"], tiny_model, "'lm_head': this is a Linear that takes no adapter"),
    (Lora, ["embed_tokens"], tiny_model, "'embed_tokens': this is a Embedding that takes no adapter"),
    (Lora, ["mlp"], tiny_model, "'mlp': this is a LlamaMLP that takes no adapter"),
    (Qlora, ["q_proj"], _adapted, "take one of lora and qlora"),
    (Qlora, ["c_attn"], lambda: tiny_model("gpt2"), "c_attn, c_fc, c_proj of GPT2LMHeadModel are Conv1D: use lora"),
    (Lora, ["q_proj"], _changed, r"self_attn\.q_proj is a _Own, .*its own phase"),
]


@pytest.mark.parametrize(("kind", "targets", "student", "message"), REFUSED)
def test_what_takes_no_adapters_is_explained(
    kind: type[Lora], targets: list[str], student: Callable[[], TransformersModel], message: str, tmp_path: Path
) -> None:
    given = student()
    learning = [parameter.requires_grad for parameter in given.model.parameters()]
    with pytest.raises(kdtool.UsageError, match=message):
        start(kind, given, tmp_path, targets=targets)
    assert [parameter.requires_grad for parameter in given.model.parameters()] == learning


@both_kinds
@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_the_memory_for_putting_in_and_for_merging_is_estimated(
    kind: type[Lora], dtype: str, size: int, tmp_path: Path
) -> None:
    student = outline_of(tiny_model(hidden_size=64, intermediate_size=96).model.config)
    bare = student.facts
    transform, run = kind(kind.Config.model_validate({"r": 4})), make_run(tmp_path)
    outline = next(transform.kdtool_transform(student, run))
    phase = kdtool.PlannedPhase("train", "phases/train", "student", 4, (), 32, outline, outline.facts)
    models = {"student": replace(bare, dtype=dtype)}
    ahead = kdtool.RunForecast(models=models, student="student", phases=(phase,), phase=phase)
    found = list(transform.kdtool_estimate(run, ahead))
    for moment, held in (("adapters put in", "host_bytes"), ("adapters merged", "compute_bytes")):
        parts = {one.part: getattr(one, held) for one in found if one.stages == (f"phases/train: {moment}",)}
        whole = size * bare.parameters
        assert parts["weights"] == whole if kind is Lora or held == "compute_bytes" else parts["weights"] < whole
        assert parts["adapters and a layer"] == 4 * outline.facts.trainable + 8 * 64 * 96


HAS_KERNELS = torch.cuda.is_available() and find_spec("liger_kernel") is not None
gpu = pytest.mark.skipif(not HAS_KERNELS, reason="needs a GPU and liger-kernel")


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float, casting: str, in_place: bool) -> Tensor:
    assert (offset, casting, in_place) == (0.0, "llama", False)
    return weight * (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * up


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, ids: None, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def turned(x: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-other, one], dim=-1) * sin

    return turned(q), turned(k)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch in place of the kernels."""
    monkeypatch.setattr(fast_layers, "kernels", lambda: fast_layers.Kernels(rms_norm, swiglu, rope))


@pytest.mark.usefixtures("stand_ins")
class TestLigerConforms(SmallConformance):
    component = Liger
    entry_point = "liger"


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", fast_layers.FAMILIES)
def test_norms_rotations_and_feed_forwards_are_replaced_and_restored(
    family: str, checkpointing: bool, tmp_path: Path
) -> None:
    student, other = tiny_model(family, layers=2), tiny_model(family, layers=2)
    expected = gradients(student, layer=1)
    if checkpointing:
        student.model.activation_checkpointing_enable({"use_reentrant": False})
    training = start(Liger, student, tmp_path)
    replaced = sorted(type(module).__name__ for module in student.model.modules() if "forward" in vars(module))
    norms = 2 * (4 if family == "qwen3" else 2) + 1
    assert [sum(name.endswith(end) for name in replaced) for end in ("RMSNorm", "MLP", "Attention")] == [norms, 2, 2]
    assert greatest_difference(gradients(student, layer=1), expected) < 1e-5
    self_check(student)
    assert not any("forward" in vars(module) for module in other.model.modules())
    assert greatest_difference(gradients(other, layer=1), expected) == 0.0, (
        "other models of the family are as they were"
    )
    next(training, None)
    assert not any("forward" in vars(module) for module in student.model.modules())
    assert greatest_difference(gradients(student, layer=1), expected) == 0.0


@pytest.mark.usefixtures("stand_ins")
def test_a_rotation_that_is_another_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The copy of the attention's forward does call what it is given."""
    student = tiny_model(layers=2)
    expected = gradients(student, layer=1)
    monkeypatch.setattr(fast_layers, "kernels", lambda: fast_layers.Kernels(rms_norm, swiglu, lambda q, k, *_: (q, k)))
    start(Liger, student, tmp_path)
    assert greatest_difference(gradients(student, layer=1), expected) > 0.01


@pytest.mark.usefixtures("stand_ins")
def test_other_families_are_explained(tmp_path: Path) -> None:
    for family in ("starcoder2", "gemma2"):
        with pytest.raises(kdtool.UsageError, match=f"qwen3 with SwiGLU, not {family}"):
            start(Liger, tiny_model(family), tmp_path)
    student = tiny_model()
    start(Liger, student, tmp_path)
    with pytest.raises(kdtool.UsageError, match=r"another transform has replaced what a Llama.* computes"):
        start(Liger, student, tmp_path)


def test_what_the_machine_lacks_is_said_beforehand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def said(device: str, *installed: str) -> list[str]:
        monkeypatch.setattr("kdtool_torch.pick_device", lambda: torch.device(device))
        monkeypatch.setattr(
            "kdtool_transformers.transforms.find_spec", lambda name: name if name in installed else None
        )
        return list(Liger(Liger.Config()).kdtool_check(make_run(tmp_path), "start"))

    (device,) = said("cpu")
    assert "torch sees none here" in device
    (triton,) = said("cuda")
    assert "pip install triton" in triton
    assert said("cuda", "triton") == []


@gpu
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", fast_layers.FAMILIES)
def test_the_kernels_give_the_same_gradients(family: str, checkpointing: bool, tmp_path: Path) -> None:
    student = tiny_model(family, layers=2, hidden_size=64, intermediate_size=128)
    student.model.to("cuda")
    expected = gradients(student, layer=1)
    if checkpointing:
        student.model.activation_checkpointing_enable({"use_reentrant": False})
    training = start(Liger, student, tmp_path)
    assert greatest_difference(gradients(student, layer=1), expected) < 1e-4
    next(training, None)
    assert greatest_difference(gradients(student, layer=1), expected) < 1e-6


@gpu
def test_the_kernels_under_autocast_are_as_near_to_float32_as_plain_layers(tmp_path: Path) -> None:
    student: Any = tiny_model(layers=2, hidden_size=64, intermediate_size=128)
    student.model.to("cuda")
    exact = gradients(student, layer=1)
    with torch.autocast("cuda", torch.bfloat16):
        plain = greatest_difference(gradients(student, layer=1), exact)
        start(Liger, student, tmp_path)
        fused = greatest_difference(gradients(student, layer=1), exact)
    assert fused < 1.5 * plain + 1e-3

"""LoRA and QLoRA: only adapters learn, frozen weights stay to the bit, and what is merged computes what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import TransformConformance, make_run
from kdtool_testing.tiny_models import save_tiny, tiny_model
from kdtool_torch import self_check
from kdtool_transformers import TransformersModel, nf4, open_model
from kdtool_transformers.nf4 import dequantise
from kdtool_transformers.transforms import Lora, Qlora
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

IDS = torch.arange(3, 23)[None]
SYSTEM_E = {"r": 8, "alpha": 32, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}


class TestLoraConforms(TransformConformance):
    component = Lora
    entry_point = "lora"

    def student(self, folder: Path) -> kdtool.LanguageModel:
        return tiny_model()


class TestQloraConforms(TransformConformance):
    component = Qlora
    entry_point = "qlora"
    lossless = False  # weights are rounded to 4 bits

    def student(self, folder: Path) -> kdtool.LanguageModel:
        return tiny_model()


def make(kind: type[Lora], **settings: Any) -> Lora:
    return kind(kind.Config(**settings))


def batch(rows: int = 2, length: int = 24) -> kdtool.Batch:
    ids = torch.randint(257, (rows, length), generator=torch.Generator().manual_seed(1))
    return kdtool.Batch(
        input_ids=ids,
        positions=torch.arange(length).expand(rows, length),
        labels=ids,
        document=torch.zeros(rows, length, dtype=torch.int32),
        row_keys=tuple(map(str, range(rows))),
    )


def learn(student: TransformersModel, steps: int = 3) -> torch.optim.Optimizer:
    """Train with AdamW, whose weight decay would be seen in weights that ought to stay."""
    model = student.model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        student.backbone(batch(), kdtool.SignalRequest()).last.square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return optimizer


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()  # type: ignore[no-any-return]


def away(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).square().mean().sqrt() / other.std())


def frozen(model: Any) -> dict[str, torch.Tensor]:
    """Return every stored number that is not to learn: weights, packed weights, and the scales of their blocks."""
    found = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    for name, module in model.named_modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            found |= {f"{name}.{part}": value.clone() for part, value in state.as_dict(packed=True).items()}
    return found


@pytest.mark.parametrize("kind", [Lora, Qlora])
def test_adapters_learn_and_all_else_stays_to_the_bit(kind: type[Lora], tmp_path: Path) -> None:
    student, transform = tiny_model("qwen2"), make(kind, **SYSTEM_E)
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    names = {name for name, p in student.model.named_parameters() if p.requires_grad}
    assert len(names) == 4 * 2 * 2  # layers, q and v, A and B
    assert all("lora_" in name for name in names)
    assert student.facts.trainable == sum(p.numel() for p in student.model.parameters() if p.requires_grad)
    before, head = frozen(student.model), student.head.weight
    self_check(student)
    logits(student.model)  # evaluating must not reorder packed weights either
    optimizer = learn(student)
    after = frozen(student.model)
    assert before.keys() == after.keys()
    assert any(".absmax" in name for name in before) == (kind is Qlora)
    assert all(before[name].equal(after[name]) for name in before)
    assert student.head.weight is head
    assert all(p.grad is None for p in student.model.parameters() if not p.requires_grad)
    assert len(optimizer.state) == len(names)
    assert all(bool(p.any()) for name, p in student.model.named_parameters() if "lora_B" in name)


FAMILIES = ["llama", "qwen2", "starcoder2", "gpt2", "gemma2"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_merges_into_a_plain_model_that_transformers_opens(family: str, tied: bool, tmp_path: Path) -> None:
    student, plain = (tiny_model(family, tie_word_embeddings=tied) for _ in range(2))
    transform = make(Lora, r=4)
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    learn(student)
    learnt = logits(student.model)
    assert away(learnt, logits(plain.model)) > 0.1
    next(training, None)
    assert [(name, type(module)) for name, module in student.model.named_modules()] == [
        (name, type(module)) for name, module in plain.model.named_modules()
    ]
    assert student.facts == plain.facts
    student.save(tmp_path / "model")
    assert away(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), learnt) < 1e-4


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2"])
def test_qlora_saves_dequantised_weights_plus_adapters(family: str, double: bool, tmp_path: Path) -> None:
    import bitsandbytes.functional as bnb

    student, plain = (tiny_model(family) for _ in range(2))
    transform = make(Qlora, r=4, targets=["q_proj"], double_quantisation=double)
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    assert away(logits(student.model), logits(plain.model)) > 0.01  # 4 bits are not all bits
    learn(student)
    learnt, layer = logits(student.model), student.model.get_submodule("model.layers.1.self_attn.q_proj")
    product = 16 / 4 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    next(training, None)
    student.save(tmp_path / "model")
    assert away(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), learnt) < 1e-4

    def rounded(name: str) -> torch.Tensor:
        weight = plain.model.get_submodule(name).weight.data
        return bnb.dequantize_4bit(*bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=double))

    stored = load_file(tmp_path / "model" / "model.safetensors")
    q, k = "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
    torch.testing.assert_close(stored[f"{q}.weight"], rounded(q) + product)
    assert stored[f"{k}.weight"].equal(rounded(k))
    embeddings = "model.embed_tokens"
    assert stored[f"{embeddings}.weight"].equal(plain.model.get_submodule(embeddings).weight)


@pytest.mark.parametrize("kind", [Lora, Qlora])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_student_in_half_precision_keeps_it(kind: type[Lora], dtype: torch.dtype, tmp_path: Path) -> None:
    student, transform = tiny_model("qwen2"), make(kind, r=4)
    student.model.to(dtype)
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    for parameter in student.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as trainers do
    learn(student)
    next(training, None)
    assert {parameter.dtype for parameter in student.model.parameters()} == {dtype}


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 32 / 4), (True, 32 / 2)])
def test_alpha_scales_the_product(stabilised: bool, scale: float, tmp_path: Path) -> None:
    student, plain = tiny_model(), tiny_model()
    transform = make(Lora, r=4, alpha=32, targets=["o_proj"], rank_stabilised=stabilised)
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    learn(student)
    name = "model.layers.0.self_attn.o_proj"
    layer = student.model.get_submodule(name)
    expected = (
        plain.model.get_submodule(name).weight + scale * layer.lora_B.default.weight @ layer.lora_A.default.weight
    )
    next(training, None)
    torch.testing.assert_close(student.model.get_submodule(name).weight.data, expected.detach())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own call
def test_a_kept_adapter_opens_with_peft_on_the_model_from_before(tmp_path: Path) -> None:
    student = save_tiny(tmp_path / "before")
    transform, run = make(Lora, **SYSTEM_E, keep_adapter=True), make_run(tmp_path)
    training = transform.kdtool_transform(student, run)
    next(training)
    learn(student)
    next(training, None)
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "before")
    adapted = PeftModel.from_pretrained(before, run.folder / "adapter")
    assert away(logits(adapted), logits(student.model)) < 1e-4


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("built_from", ["owner/name", ""])
def test_a_kept_adapter_names_its_base_and_its_card_opens_both(
    built_from: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save_tiny(tmp_path / "before")
    saved.built_from = built_from
    saved.save(tmp_path / "before")
    student, said = open_model(tmp_path / "before"), list[str]()
    transform, run = make(Lora, r=4, keep_adapter=True), make_run(tmp_path / "run", say=said.append)
    training = transform.kdtool_transform(student, run)
    next(training)
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


def half(folder: Path, **settings: Any) -> TransformersModel:
    """Return a student of bfloat16 weights, which lie in a file."""
    saved = tiny_model(**settings)
    saved.model.to(torch.bfloat16)
    saved.save(folder)
    return open_model(folder)


@pytest.mark.parametrize("kind", [Lora, Qlora])
def test_a_student_of_bfloat16_stays_one_and_its_file_as_it_was(kind: type[Lora], tmp_path: Path) -> None:
    student, transform = half(tmp_path / "before"), make(kind, r=4)
    file = tmp_path / "before" / "model.safetensors"
    written = file.read_bytes()
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    adapters = {name: p for name, p in student.model.named_parameters() if p.requires_grad}
    for parameter in adapters.values():
        parameter.data = parameter.data.float()  # as trainers do
    with torch.autocast("cpu", torch.bfloat16):
        learn(student)
    layer = student.model.get_submodule("model.layers.1.self_attn.q_proj")
    product = 16 / 4 * layer.lora_B.default.weight.detach() @ layer.lora_A.default.weight.detach()
    base = layer.base_layer
    before = base.weight.data.float() if kind is Lora else dequantise(base)
    expected = (before + product).bfloat16()
    next(training, None)
    assert {p.dtype for p in student.model.parameters()} == {torch.bfloat16}
    assert student.model.get_parameter("model.layers.1.self_attn.q_proj.weight").equal(expected)
    assert file.read_bytes() == written


@pytest.mark.parametrize("kind", [Lora, Qlora])
def test_layers_that_share_a_weight_written_before_learn_alike(kind: type[Lora], tmp_path: Path) -> None:
    """As after a phase of adapters, whose product lies in the mapped file's memory."""
    student, transform = half(tmp_path / "before", hidden_size=128), make(kind, r=4)
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in (0, 1)]
    first, second = (student.model.get_submodule(name) for name in names)
    second.weight = first.weight
    with torch.no_grad():
        first.weight.mul_(2)
    written = first.weight.detach().float()
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    for name in names:
        layer = student.model.get_submodule(name)
        held = layer.base_layer.weight.data.float() if kind is Lora else dequantise(layer.base_layer)
        assert away(held, written) < 0.2


def test_4_bits_are_computed_with_in_the_dtype_of_autocast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, transform = tiny_model("qwen2"), make(Qlora, r=4)
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    biases = {name: p.clone() for name, p in student.model.named_parameters() if name.endswith("bias")}
    found: list[tuple[torch.dtype, torch.dtype]] = []

    def product(x: torch.Tensor, weight: Any, bias: Any, quant_state: Any) -> Any:
        found.append((x.dtype, quant_state.dtype))
        return matmul(x, weight, bias=bias, quant_state=quant_state)

    matmul: Any = nf4.matmul_4bit  # type: ignore[attr-defined]
    monkeypatch.setattr(nf4, "matmul_4bit", product)
    with torch.autocast("cpu", torch.bfloat16):
        learn(student, steps=1)
    assert set(found) == {(torch.bfloat16, torch.bfloat16)}
    found.clear()
    learn(student, steps=1)
    assert set(found) == {(torch.float32, torch.float32)}
    assert biases, "Qwen2 has some"
    assert all(student.model.get_parameter(name).equal(bias) for name, bias in biases.items())


@pytest.mark.parametrize("broken", ["scaled", "not finite"])
@pytest.mark.parametrize("kind", [Lora, Qlora])
def test_a_merge_that_changes_the_model_is_refused(kind: type[Lora], broken: str, tmp_path: Path) -> None:
    student, transform = tiny_model(), make(kind, r=4)
    training = transform.kdtool_transform(student, make_run(tmp_path))
    next(training)
    learn(student)
    for module in student.model.modules():
        if hasattr(module, "get_delta_weight"):
            product, factor = module.get_delta_weight, 1.1 if broken == "scaled" else float("nan")
            module.get_delta_weight = lambda name, product=product, factor=factor: factor * product(name)
    with pytest.raises(kdtool.PluginError, match="merging the adapters changed the logits of LlamaForCausalLM"):
        next(training, None)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_prj"], r"'q_prj': no layer has this name; linear layers of this student are down_proj, .*, v_proj"),
        (["q_proj", "lm_head"], "'lm_head': this is a Linear that takes no adapter"),
        (["embed_tokens"], "'embed_tokens': this is a Embedding that takes no adapter"),
        (["mlp"], "'mlp': this is a LlamaMLP that takes no adapter"),
    ],
)
@pytest.mark.parametrize("kind", [Lora, Qlora])
def test_targets_that_cannot_be_are_explained(
    kind: type[Lora], targets: list[str], message: str, tmp_path: Path
) -> None:
    student = tiny_model()
    with pytest.raises(kdtool.UsageError, match=message):
        next(make(kind, targets=targets).kdtool_transform(student, make_run(tmp_path)))
    assert all(parameter.requires_grad for parameter in student.model.parameters())


def test_both_at_once_are_refused(tmp_path: Path) -> None:
    student = tiny_model()
    next(make(Lora).kdtool_transform(student, make_run(tmp_path)))
    with pytest.raises(kdtool.UsageError, match="take one of lora and qlora"):
        next(make(Qlora).kdtool_transform(student, make_run(tmp_path)))


def test_qlora_says_which_models_it_cannot_store(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"c_attn, c_fc, c_proj of GPT2LMHeadModel are Conv1D: use lora"):
        next(make(Qlora).kdtool_transform(tiny_model("gpt2"), make_run(tmp_path)))


def test_layers_that_another_transform_made_are_refused(tmp_path: Path) -> None:
    class Own(torch.nn.Linear):
        """A layer that computes otherwise."""

    student = tiny_model()
    student.model.set_submodule("model.layers.0.self_attn.q_proj", Own(32, 32))
    with pytest.raises(kdtool.UsageError, match=r"self_attn\.q_proj is a Own, .*its own phase"):
        next(make(Lora).kdtool_transform(student, make_run(tmp_path)))

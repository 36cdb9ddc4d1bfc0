"""The shape that `pruned` finds for a count: within two per cent, to be cut from its source, or refused with the nearest.

Cutting widths: nothing changes where nothing of weight is left out, and importance is what its formulas say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import transformers
from cut_source import run_on
from hypothesis import given
from hypothesis import strategies as st
from kdtool_student_pruned import Pruned
from kdtool_student_pruned._anatomy import Anatomy, Shape, smaller_config
from kdtool_student_pruned._importance import Importance, measure
from kdtool_student_pruned._target import solve
from kdtool_testing import make_run
from kdtool_testing.tiny_models import tiny_config, tiny_model
from kdtool_torch import self_check
from kdtool_transformers import (
    PublishedTeacher,
    PublishedTeacherConfig,
    TransformersModel,
    decoder_layers,
    facts_of,
    published_config,
    without_weights,
)
from kdtool_transformers import sizes as model_sizes
from kdtool_transformers.sizes import TOLERANCE
from torch import Tensor, nn

SOURCES: dict[str, Mapping[str, Any]] = {
    "smollm2-135m": {"model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536}
    | {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "codellama-7b": published_config("codellama/CodeLlama-7b-hf"),
    "starcoder2-3b": published_config("bigcode/starcoder2-3b"),
    "qwen2.5-1.5b": published_config("Qwen/Qwen2.5-Coder-1.5B"),
}


@cache
def _source(name: str) -> Anatomy:
    config = transformers.AutoConfig.for_model(**SOURCES[name])
    return Anatomy.of(facts_of(without_weights(config), None))


class PublishedSource(PublishedTeacher):
    """A teacher whose weights are nowhere; its configuration is known."""

    def __init__(self, name: str) -> None:
        super().__init__(PublishedTeacherConfig())
        self.name = name

    def hub_name(self) -> str:
        return f"nobody/{self.name}"

    def absent(self) -> Mapping[str, Any]:
        return SOURCES[self.name]


@given(st.sampled_from(list(SOURCES)), st.floats(0.001, 1.05))
def test_a_count_is_met_or_refused_with_the_nearest(name: str, share: float) -> None:
    source = _source(name)
    whole = source.parameters(source.shape)
    wanted = int(share * whole)
    try:
        shape = solve(wanted, source, "teacher")
    except kdtool.UsageError as error:
        if wanted > whole:
            assert "cutting only takes away" in str(error)
            return
        found = re.search(r"nearest is parameters: (\d+) ", str(error))
        assert found is not None
        nearest = int(found[1])
        assert abs(nearest / wanted - 1) > TOLERANCE, "that would have done"
        shape, wanted = solve(nearest, source, "teacher"), nearest  # what is proposed is accepted
    assert abs(source.parameters(shape) / wanted - 1) <= TOLERANCE
    _can_be_cut(shape, source)


def _can_be_cut(shape: Shape, source: Anatomy) -> None:
    whole = source.shape
    assert all(1 <= size <= own for size, own in zip(shape, whole, strict=True))
    assert shape.heads % shape.kv_heads == 0
    assert shape.heads // shape.kv_heads <= whole.heads // whole.kv_heads
    for size, own in ((shape.hidden, whole.hidden), (shape.feed_forward, whole.feed_forward)):
        assert size == own or size % (64 if size < 1024 else 256) == 0
    if source.model_type != "llama":  # llama.cpp opens no others
        assert shape.heads * source.head_size == shape.hidden
    else:  # nor does transformers
        assert shape.hidden % shape.heads == 0


@pytest.mark.parametrize(
    ("name", "wanted", "shape"),
    [
        ("codellama-7b", 350_000_000, Shape(22, 1024, 8, 8, 2816)),
        ("starcoder2-3b", 350_000_000, Shape(18, 1280, 10, 1, 4864)),
        ("smollm2-135m", 60_000_000, Shape(26, 384, 6, 2, 1024)),
        ("smollm2-135m", 134_515_008, Shape(30, 576, 9, 3, 1536)),
    ],
)
def test_teachers_of_the_systems_get_these_shapes(
    name: str, wanted: int, shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_sizes, "uses_of", lambda _: {"gpu": True, "gguf": True})
    assert solve(wanted, _source(name), "teacher") == shape
    said: list[str] = []
    run = make_run(tmp_path, {"teacher": PublishedSource(name)}, offline=True, say=said.append)
    student = Pruned(Pruned.Config(parameters=wanted))
    facts = student.kdtool_describe(run).facts
    assert facts == student.kdtool_describe(run).facts
    assert facts.parameters == facts.trainable == _source(name).parameters(shape)
    assert abs(facts.parameters / wanted - 1) <= TOLERANCE
    sizes = (facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.feed_forward)
    assert sizes == shape
    assert (facts.vocabulary, facts.dtype) == (SOURCES[name]["vocab_size"], "float32")
    assert facts.tied == SOURCES[name]["tie_word_embeddings"]
    if shape == _source(name).shape:
        assert said == []
        return
    assert said[0].startswith(f"student: {facts.parameters:,} parameters, ")  # once
    notes = " ".join(said[1:])
    assert ("not a multiple of 256: GGUF" in notes) == any(size % 256 for size in (shape.hidden, shape.feed_forward))


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2"])
@given(data=st.data())
def test_counts_are_what_transformers_builds(family: str, data: st.DataObject) -> None:
    options: dict[str, Any] = {"tie_word_embeddings": data.draw(st.booleans())}
    if family == "llama":
        options |= {"attention_bias": data.draw(st.booleans()), "mlp_bias": data.draw(st.booleans())}
    if family == "starcoder2":
        options["use_bias"] = data.draw(st.booleans())
    config = tiny_config(family, 5, **options)
    source = Anatomy.of(facts_of(without_weights(config), None))
    assert source.parameters(source.shape) == facts_of(without_weights(config), None).parameters
    kv_heads = data.draw(st.integers(1, 2))
    heads = kv_heads * data.draw(st.integers(1, 2))
    shape = Shape(
        data.draw(st.integers(1, 5)), data.draw(st.integers(1, 32)), heads, kv_heads, data.draw(st.integers(1, 48))
    )
    facts = facts_of(without_weights(smaller_config(config, range(shape.layers), shape)), None)
    assert facts.parameters == source.parameters(shape)
    assert facts.vocabulary * facts.hidden * (1 if facts.tied else 2) == source.embedding_parameters(shape)


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "llama-biased": {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 0.01},
    "qwen2": {"tie_word_embeddings": True},
    "qwen2-untied": {
        "tie_word_embeddings": False,
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
    },
    "starcoder2": {"sliding_window": None, "norm_epsilon": 0.01},
    "starcoder2-untied": {"tie_word_embeddings": False, "sliding_window": 9},
}
GONE = torch.tensor([1, 5, 6, 20, 21, 22, 23, 31])
"""Channels, neurons that can be left out of the models below."""
KEPT = torch.tensor([channel for channel in range(32) if channel not in GONE])


def _model(family: str) -> TransformersModel:
    return tiny_model(family.partition("-")[0], 3, **FAMILIES[family])


def _logits(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(257, (2, 40), generator=generator)
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids).logits
    return logits


def _build(folder: Path, model: TransformersModel, **settings: Any) -> TransformersModel:
    """Build a student, and see that it is as described."""
    student = Pruned(Pruned.Config(calibration_length=64, **settings))
    run = run_on(folder, model)
    built = student.kdtool_build_student(run)
    described = student.kdtool_describe(run).facts
    assert replace(described, copied_layers=built.facts.copied_layers) == built.facts
    assert isinstance(built, TransformersModel)
    return built


def _opens_plainly(built: TransformersModel, folder: Path) -> None:
    self_check(built)
    built.save(folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
    assert type(plain).__module__.startswith("transformers.")
    torch.testing.assert_close(_logits(plain), _logits(built.model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "axis"),
    [
        *product(("llama", "qwen2", "starcoder2"), ("feed_forward", "groups", "heads", "hidden")),
        *product(FAMILIES, ("all",)),
    ],
)
def test_leaving_out_what_is_zero_changes_nothing(family: str, axis: str, tmp_path: Path) -> None:
    source = _model(family)
    settings: dict[str, Any] = {}
    if axis in ("feed_forward", "all"):
        settings["feed_forward"] = 40
        for number, layer in enumerate(_layers(source)):
            _zero_columns(_last(layer), (GONE + number) % 48)
    if axis in ("groups", "all"):
        settings["heads"] = 2
        for number, layer in enumerate(_layers(source)):
            group = 16 * (number % 2)
            _zero_columns(layer.self_attn.o_proj, torch.arange(group, group + 16))
    if axis == "heads":
        settings |= {"heads": 2, "kv_heads": 2}
        for layer in _layers(source):
            _zero_columns(layer.self_attn.o_proj, torch.tensor([*range(8), *range(24, 32)]))
    if axis in ("hidden", "all"):
        settings["hidden"] = 24
        _silence_channels(source.model)
    expected = _logits(source.model)
    built = _build(tmp_path, source, **settings)
    torch.testing.assert_close(_logits(built.model), expected, rtol=1e-4, atol=1e-4)
    assert built.facts.copied_layers == (0, 1, 2)
    if axis == "all":
        _opens_plainly(built, tmp_path / "student")
    for key, size in settings.items():
        assert getattr(built.facts, key) == size


@pytest.mark.parametrize("family", ["llama", "starcoder2", "qwen2"])
def test_importance_is_what_a_plain_loop_finds(family: str, tmp_path: Path) -> None:
    source = _model(family)
    run = run_on(tmp_path, source)
    found = measure(source, run.texts.examples("train"), 1, 24, widths=True)
    text = next(run.texts.examples("train")).body
    assert isinstance(text, kdtool.Text)
    ids = source.tokenizer.encode(text.text)[:24]
    expected = _by_loops(source, ids)
    for name, value in vars(expected).items():
        if name == "channels":
            assert set(value) == set(found.channels)
            for norm, share in value.items():
                torch.testing.assert_close(found.channels[norm], share, rtol=1e-4, atol=1e-7)
        else:
            torch.testing.assert_close(getattr(found, name), value, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def _by_loops(source: TransformersModel, ids: list[int]) -> Importance:
    """Compute importance token by token and unit by unit, from what modules were given."""
    given: dict[str, Tensor] = {}
    gave: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            given[name] = (inputs[0] if inputs else named["hidden_states"])[0].double()
            gave[name] = (output[0] if isinstance(output, tuple) else output)[0].double()

        return hook

    wanted = {name: module for name, module in source.model.named_modules() if _is_wanted(name)}
    hooks = [module.register_forward_hook(keep(name), with_kwargs=True) for name, module in wanted.items()]
    source.model(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    layers, heads, neurons, channels = [], [], [], {}
    for number, layer in enumerate(_layers(source)):
        name = f"model.layers.{number}"
        pairs = zip(given[name], gave[name], strict=True)
        layers.append(sum(1 - float(a @ b / (a.norm() * b.norm())) for a, b in pairs) / len(ids))
        matrix, states = layer.self_attn.o_proj.weight.double(), given[f"{name}.self_attn.o_proj"]
        parts = [slice(8 * head, 8 * head + 8) for head in range(4)]
        heads.append([sum(float((matrix[:, p] @ s[p]).square().sum()) for s in states) / len(ids) for p in parts])
        last = "down_proj" if hasattr(layer.mlp, "down_proj") else "c_proj"
        matrix, states = getattr(layer.mlp, last).weight.double(), given[f"{name}.mlp.{last}"]
        added = [[float((matrix[:, n] * s[n]).square().sum()) for s in states] for n in range(48)]
        neurons.append([sum(energies) / len(ids) for energies in added])
    for name, states in given.items():
        if name.endswith("norm"):
            mean_counts = not isinstance(wanted[name], nn.LayerNorm)
            centred = [state if mean_counts else state - state.mean() for state in states]
            channels[name] = torch.stack([state**2 / (state**2).sum() for state in centred]).mean(0)
    return Importance(
        torch.tensor(layers).double(), channels, torch.tensor(heads).double(), torch.tensor(neurons).double()
    )


def _is_wanted(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.endswith("norm") or last in ("o_proj", "down_proj", "c_proj") or last.isdigit()


def _layers(source: TransformersModel) -> Any:
    return decoder_layers(source.model)


def _last(layer: Any) -> Any:
    return layer.mlp.down_proj if hasattr(layer.mlp, "down_proj") else layer.mlp.c_proj


def _zero_columns(module: Any, columns: Tensor) -> None:
    with torch.no_grad():
        module.weight[:, columns] = 0


def _silence_channels(model: Any) -> None:
    """Let nothing write to the channels `GONE`, nor read a constant there, and the others always sum to zero.

    A LayerNorm takes the mean away: channels that are at the mean are at zero for it.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            module, kind = name.split(".")[-2:]
            if module == "embed_tokens":
                _silenced(parameter.T)
            elif module in ("o_proj", "down_proj", "c_proj"):
                _silenced(parameter)
            elif module.endswith("norm") and kind == "bias":
                parameter[GONE] = 0


def _silenced(written: Tensor) -> None:
    written[GONE] = 0
    written[KEPT] -= written[KEPT].mean(0)

"""The student `pruned`: which layers it keeps, that they are the teacher's, and that it opens with plain transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from kdtool.testing import StudentConformance, make_run
from kdtool_student_pruned import Pruned
from kdtool_student_pruned._cut import cut
from kdtool_student_pruned._importance import block_influence, most_important, uniform
from kdtool_transformers import TransformersModel, TransformersRuntime, decoder_layers, self_check
from kdtool_transformers.testing import tiny_model

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    "starcoder2": {"sliding_window": None},
    "gpt2": {},
}


class Source(kdtool.Teacher):
    """A teacher on a model that is given."""

    def __init__(self, model: TransformersModel) -> None:
        super().__init__(self.Config())
        self.model = model

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self.model.tokenizer

    def kdtool_identity(self, run: kdtool.RunInfo) -> dict[str, str]:
        return {"weights": "w"}

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return self.model.facts

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return TransformersRuntime(self.model) if subject.role == "teacher" else None


class TestPruned(StudentConformance):
    component = Pruned
    entry_point = "pruned"
    settings: ClassVar[dict[str, Any]] = {"layers": 2, "importance": "uniform"}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Source(tiny_model("llama", 4))}


class TestPrunedWithItsOwnHead(TestPruned):
    settings: ClassVar[dict[str, Any]] = {"keep": [0, 3]}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Source(tiny_model("qwen2", 4, tie_word_embeddings=False))}


def _run(folder: Path, model: TransformersModel, **fields: Any) -> kdtool.RunInfo:
    examples = [
        kdtool.Example("1", kdtool.Text("def f(x):\n    return x\n" * 3)),
        kdtool.Example("2", kdtool.Completion("def g(", "y): pass\n")),
        kdtool.Example("3", kdtool.Messages((("user", "hi"), ("assistant", "print(1)")))),
    ]
    return make_run(folder, {"teacher": Source(model)}, examples, **fields)


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_layers_are_the_sources_and_all_opens_plainly(family: str, tmp_path: Path) -> None:
    source = tiny_model(family, 5, **FAMILIES[family])
    student = Pruned(Pruned.Config(keep=(0, 2, 4)))
    run = _run(tmp_path, source)
    built = student.kdtool_build_student(run)
    assert built.facts.copied_layers == (0, 2, 4)
    described = student.kdtool_describe(run)
    if family == "gpt2":  # its position table is taken for parts of layers
        assert described.parameters == pytest.approx(built.facts.parameters, rel=0.2)
    else:
        assert described == built.facts
    assert student.kdtool_tokenizer(run).fingerprint == built.facts.tokenizer_fingerprint
    built.save(tmp_path / "student")
    opened = student.kdtool_open(run, kdtool.Subject("student", "student", tmp_path / "student", 0))
    assert opened is not None
    assert opened.model is not None
    assert opened.model.facts == built.facts
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    ids = torch.arange(30)[None]
    expected = _with_layers_bypassed(source, (1, 3), ids)
    for model in (plain, opened.model.model):
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    self_check(opened.model)


def _with_layers_bypassed(source: TransformersModel, left_out: tuple[int, ...], ids: torch.Tensor) -> torch.Tensor:
    """Return the source's logits when some of its layers give back what they are given."""
    layers = decoder_layers(source.model)

    def bypass(_module: Any, inputs: Any, named: Any, output: Any) -> Any:
        state = inputs[0] if inputs else named["hidden_states"]
        return (state, *output[1:]) if isinstance(output, tuple) else state

    hooks = [layers[layer].register_forward_hook(bypass, with_kwargs=True) for layer in left_out]
    with torch.no_grad():
        logits: torch.Tensor = source.model(input_ids=ids).logits
    for hook in hooks:
        hook.remove()
    return logits


def test_the_layers_that_change_most_stay(tmp_path: Path) -> None:
    source = tiny_model("llama", 5)
    for layer in (1, 3):  # these hardly change what passes through
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            torch.nn.init.normal_(decoder_layers(source.model)[layer].get_parameter(f"{name}.weight"), std=1e-4)
    run = _run(tmp_path, source)
    influence = block_influence(source, run.texts.examples("train"), 4, 32)
    assert max(influence[1], influence[3]) < 1e-4 < min(influence[0], influence[2], influence[4])
    said: list[str] = []
    student = Pruned(Pruned.Config(layers=3, calibration_length=32))
    built = student.kdtool_build_student(_run(tmp_path, source, say=said.append))
    assert built.facts.copied_layers == (0, 2, 4)
    assert said == ["student: layers 0, 2, 4 of the 5 of teacher"]


def test_building_draws_no_random_numbers_and_leaves_the_source(tmp_path: Path) -> None:
    source = tiny_model("llama", 4)
    before, state = source.model.state_dict(), torch.random.get_rng_state()
    first, second = (cut(source, (1, 2)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
    torch.nn.init.zeros_(next(iter(decoder_layers(first.model)[0].parameters())))
    assert all(torch.equal(weight, before[name]) for name, weight in source.model.state_dict().items())


@given(st.integers(1, 40).flatmap(lambda layers: st.tuples(st.just(layers), st.integers(1, layers))))
def test_uniform_keeps_different_layers_in_order(sizes: tuple[int, int]) -> None:
    layers, count = sizes
    kept = uniform(layers, count)
    assert len(kept) == count
    assert list(kept) == sorted(set(kept))
    assert kept[0] == 0
    assert count == 1 or kept[-1] == layers - 1


@given(st.lists(st.floats(0, 2), min_size=1, max_size=30), st.data())
def test_no_layer_left_out_matters_more_than_one_kept(influence: list[float], data: st.DataObject) -> None:
    kept = most_important(influence, data.draw(st.integers(1, len(influence))))
    out = [influence[layer] for layer in range(len(influence)) if layer not in kept]
    assert list(kept) == sorted(set(kept))
    assert not out or max(out) <= min(influence[layer] for layer in kept)


@pytest.mark.parametrize(
    "settings", [{}, {"layers": 2, "keep": (0, 1)}, {"keep": ()}, {"keep": (1, 0)}, {"keep": (-1,)}]
)
def test_contradictory_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"give either|must name at least one"):
        Pruned.Config(**settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": 9}, "layers: 9 asks for more than teacher has: 4 layers"),
        ({"keep": (0, 4)}, r"keep: \[0, 4\] asks for more"),
        ({"layers": 2, "source": "teachers.big"}, "teachers.big is no teacher of this recipe"),
    ],
)
def test_what_the_source_cannot_give_is_refused(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    run = _run(tmp_path, tiny_model("llama", 4))
    for hook in ("kdtool_describe", "kdtool_build_student"):
        with pytest.raises(kdtool.UsageError, match=told):
            getattr(Pruned(Pruned.Config(**settings)), hook)(run)


def test_empty_training_text_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"teacher": Source(tiny_model("llama", 4))})
    with pytest.raises(kdtool.UsageError, match="training text is empty"):
        Pruned(Pruned.Config(layers=2)).kdtool_build_student(run)

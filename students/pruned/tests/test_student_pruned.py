"""The student `pruned`: what stays of a teacher, that nothing else changes, and that it opens with plain transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
import torch
import transformers
from cut_source import Source, run_on
from kdtool_student_pruned import Pruned
from kdtool_student_pruned._cut import Kept, cut
from kdtool_student_pruned._importance import _rows, measure
from kdtool_testing import StudentConformance, make_run
from kdtool_testing.tiny_models import begin_texts_with, tiny_model
from kdtool_torch import self_check
from kdtool_transformers import TransformersModel, byte_tokenizer, decoder_layers

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    "starcoder2": {"sliding_window": None},
    "gpt2": {},
}


class TestPruned(StudentConformance):
    component = Pruned
    entry_point = "pruned"
    settings: ClassVar[dict[str, Any]] = {"keep": [0, 2]}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Source(tiny_model("llama", 4))}


class TestPrunedByWidth(TestPruned):
    settings: ClassVar[dict[str, Any]] = {"layers": 3, "hidden": 24, "heads": 2, "kv_heads": 1, "feed_forward": 32}

    def make_run(self, folder: Path, **fields: Any) -> kdtool.RunInfo:
        return run_on(folder, tiny_model("starcoder2", 4), **fields)


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_layers_are_the_sources_and_all_opens_plainly(family: str, tmp_path: Path) -> None:
    source = tiny_model(family, 5, **FAMILIES[family])
    built = Pruned(Pruned.Config(keep=(0, 2, 4))).kdtool_build_student(run_on(tmp_path, source))
    assert built.facts.copied_layers == (0, 2, 4)
    self_check(built)
    built.save(tmp_path / "student")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    ids = torch.arange(30)[None]
    expected = _with_layers_bypassed(source, (1, 3), ids)
    torch.testing.assert_close(plain(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


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
    run = run_on(tmp_path, source)
    influence = measure(source, run.texts.examples("train"), 4, 32, widths=False).layers
    assert max(influence[1], influence[3]) < 1e-4 < min(influence[0], influence[2], influence[4])
    said: list[str] = []
    student = Pruned(Pruned.Config(layers=3, calibration_length=32))
    built = student.kdtool_build_student(run_on(tmp_path, source, say=said.append))
    assert built.facts.copied_layers == (0, 2, 4)
    assert said == ["student: layers 0, 2, 4 of the 5 of teacher"]


def test_building_draws_no_random_numbers_and_leaves_the_source(tmp_path: Path) -> None:
    source = tiny_model("llama", 4)
    before = {name: weight.clone() for name, weight in source.model.state_dict().items()}
    state = torch.random.get_rng_state()
    student = Pruned(Pruned.Config(layers=2, hidden=16, heads=2, feed_forward=16))
    first, second = (student.kdtool_build_student(run_on(tmp_path, source)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
    for parameter in first.model.parameters():
        torch.nn.init.zeros_(parameter)
    assert all(torch.equal(weight, before[name]) for name, weight in source.model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "give parameters .how many stay., or sizes to reduce: layers, keep, hidden, heads"),
        ({"layers": 2, "keep": (0, 1)}, "give either layers .* or keep"),
        ({"keep": (1, 0)}, "must name at least one"),
        ({"parameters": "350M", "layers": 2, "hidden": 64}, "leave out layers, hidden, or parameters"),
        ({"heads": 7, "kv_heads": 2}, "kv_heads: 2 does not divide heads: 7, .* give heads: 6 or 8"),
        ({"heads": 2, "kv_heads": 4}, "kv_heads: 4 does not divide heads: 2, .* give heads: 4, or"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=told):
        Pruned.Config.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": 9}, "layers: 9 asks for more than teacher has: 4; .* give at most 4"),
        ({"keep": (0, 4)}, r"keep: \[0, 4\] asks for more than teacher has: 4 layers, 0 to 3"),
        ({"hidden": 33, "feed_forward": 64}, "hidden: 33 asks .* at most 32; feed_forward: 64 .* at most 48"),
        (
            {"heads": 3},
            "heads: 3 does not go into KV groups: in teacher 2 heads share .* heads: 2 or 4, or kv_heads, too",
        ),
        ({"heads": 3, "kv_heads": 1}, "are 3 to a KV head, but in teacher only 2 share one; give at most heads: 2"),
        ({"hidden": 30}, "hidden: 30 is not a multiple of the 4 heads, .* of Llama; give hidden: 28 or 32, or other"),
        ({"layers": 2, "source": "teachers.big"}, "teachers.big is not a teacher of this recipe"),
        ({"parameters": 10**9}, "parameters: 1,000,000,000 are more than the .* of teacher"),
        ({"parameters": 5000}, r"cut to no usual proportions within 2% of 5,000: .* The nearest is parameters: \d+ \("),
    ],
)
def test_what_the_source_cannot_give_is_refused_before_weights_load(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    run = run_on(tmp_path, tiny_model("llama", 4))
    for hook in ("kdtool_describe", "kdtool_build_student"):
        with pytest.raises(kdtool.UsageError, match=told):
            getattr(Pruned(Pruned.Config(**settings)), hook)(run)


def test_widths_of_other_classes_are_refused(tmp_path: Path) -> None:
    run = run_on(tmp_path, tiny_model("gpt2", 4))
    for config in (Pruned.Config(parameters=20_000), Pruned.Config(hidden=16)):
        with pytest.raises(
            kdtool.UsageError, match=r"teacher is of class gpt2, .* Llama, Qwen2, Starcoder2: set only layers"
        ):
            Pruned(config).kdtool_describe(run)


def test_a_source_that_is_no_model_of_transformers_is_refused(tmp_path: Path) -> None:
    class Foreign(Source):
        def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
            facts = self.model.facts
            return kdtool.ModelFacts(**{name: getattr(facts, name) for name in kdtool.ModelFacts.__dataclass_fields__})

    run = make_run(tmp_path, {"teacher": Foreign(tiny_model("llama", 4))})
    with pytest.raises(kdtool.UsageError, match="teacher gives no model of transformers"):
        Pruned(Pruned.Config(layers=2)).kdtool_describe(run)


def test_empty_training_text_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"teacher": Source(tiny_model("llama", 4))})
    for config in (Pruned.Config(layers=2), Pruned.Config(keep=(0, 1), hidden=16)):
        with pytest.raises(kdtool.UsageError, match="training text is empty"):
            Pruned(config).kdtool_build_student(run)


def test_weights_in_few_bits_are_refused() -> None:
    source = tiny_model("llama", 2)
    source.model.lm_head.weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(kdtool.UsageError, match="stored in few bits; set a source without `quantise`"):
        cut(source, Kept((0,)))


def test_documents_and_rows_of_calibration_text_begin_as_the_tokenizer_begins_them() -> None:
    tokenizer = begin_texts_with(byte_tokenizer(), "<s>")
    examples = [kdtool.Example(text, kdtool.Text(text)) for text in ("abcdef", "gh", "ijklm")]
    start, end, ids = 257, tokenizer.end_of_text, tokenizer.encode
    assert list(_rows(tokenizer, examples, 3, 6)) == [
        [start, *ids("abcde")], [start, *ids("f"), end, start, *ids("gh")], [start, end, start, *ids("ijk")]
    ]  # fmt: skip
    assert list(_rows(byte_tokenizer(), examples, 2, 6)) == [ids("abcdef"), [end, *ids("gh"), end, *ids("ij")]]

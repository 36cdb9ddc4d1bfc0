"""The classes of published teachers, made small, from a teacher's signals to a student that teaches again.

The configurations are the published ones, reduced; the weights are random; the tokenizers have as many pieces as the
published ones and are trained on the standard library. What passes here proves shapes and parity between packages, never
quality. What a single package does with these classes is tested beside it.
"""

from __future__ import annotations

import email
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_teacher_causal_lm import CausalLM
from kdtool_teacher_codellama import CodeLlama
from kdtool_teacher_starcoder2 import StarCoder2
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_reduced, save_starcoder2_tokenizer
from kdtool_transformers import CausalTeacher, open_tokenizer, published_config
from transformers import AutoConfig, AutoModelForCausalLM

pytestmark = pytest.mark.slow

LLAMA_3_2_1B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
}
ADAPTER = {"r": 8, "alpha": 32, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
CODE = "def add(a, b):\n    return "


@dataclass(frozen=True)
class Family:
    """A published class, made small in a folder, and the teacher that opens it."""

    folder: Path
    kind: type[CausalTeacher]
    teacher: str
    setting: str
    class_name: str
    pieces: int
    licence: str

    def recipe(self) -> dict[str, Any]:
        """Return a recipe with all that a student of this teacher goes through."""
        corpus = {"use": "python-source", "folder": str(Path(email.__file__).parent), "licence": "Python-2.0"}
        finetune = {"losses": {"ce": {}}, "steps": 4}
        return {
            "name": self.teacher,
            "terms_acknowledged": {"teacher": self.licence or False},
            "corpus": {**corpus, "validation_share": 0.2, "test_share": 0.2},
            "rows": {"use": "packed", "length": 48, "maximum_tokens": 480},
            "teacher": {"use": self.teacher, self.setting: str(self.folder), "dtype": "float32"},
            "signals": {"use": "states"},
            "student": {
                "use": "pruned", "layers": 2, "hidden": 32, "feed_forward": 64, "calibration_length": 48,
                "calibration_rows": 4,
            },
            "trainer": {
                "use": "standard", "batch": 2, "dtype": "float32", "learning_rate": 1e-2, "log_every": 1,
                "checkpoint_every": 2, "compile": "off",
            },
            "train": {
                "distil": {"losses": {"forward-kl": {}, "ce": {}, "hidden": {}}, "steps": 2},
                "lora": {**finetune, "transforms": {"lora": ADAPTER}},
                "qlora": {**finetune, "transforms": {"qlora": ADAPTER, "gradient-checkpointing": {}}},
                "qat": {**finetune, "transforms": {"qat": {}}},
            },
            "evaluators": {"agreement": {"limit": 2, "tokens": 32}},
            "exporters": {"safetensors": {"dtype": "float32"}},
        }  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """A finished run, and where it lies."""

    family: Family
    results: kdtool.Results
    recipe: Path
    store: Path

    @cached_property
    def exported(self) -> Path:
        """The folder that the student was exported to."""
        (artifact,) = self.results.arms[0].artifacts
        return artifact.path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    """Return the published classes, each beside a tokenizer of its publisher's size."""
    made = {}
    near = {**LLAMA_3_2_1B["rope_scaling"], "original_max_position_embeddings": 128}  # below the reduced context of 512
    for name, kind, teacher, setting, class_name, published, licence in (
        (
            "starcoder2", StarCoder2, "starcoder2", "weights", "Starcoder2ForCausalLM",
            published_config("bigcode/starcoder2-3b"), "BigCode OpenRAIL-M v1",
        ),
        (
            "codellama", CodeLlama, "codellama", "weights", "LlamaForCausalLM",
            published_config("codellama/CodeLlama-7b-hf"), "Llama 2 Community License",
        ),
        (
            "llama-3.2", CausalLM, "causal-lm", "model", "LlamaForCausalLM",
            {**LLAMA_3_2_1B, "vocab_size": 49_152, "rope_scaling": near}, "",
        ),
    ):  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        if name == "codellama":
            save_code_llama_tokenizer(folder, 32_016, 6_000_000, infilling=True)
        else:  # of Llama 3.2 the kind of tokenizer, bytes, and not its number of pieces
            save_starcoder2_tokenizer(folder, 49_152, 12_000_000)
        save_reduced(folder, published, num_hidden_layers=3)
        made[name] = Family(folder, kind, teacher, setting, class_name, published["vocab_size"], licence)
    return made


@pytest.fixture(scope="module", params=["starcoder2", "codellama", "llama-3.2"])
def whole(
    request: pytest.FixtureRequest, folders: dict[str, Family], tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    family, folder = folders[request.param], tmp_path_factory.mktemp("whole")
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(family.recipe()), encoding="utf-8")
    results = kdtool.run(recipe, out=folder / "whole", store=folder / "store", offline=True)
    return Whole(family, results, recipe, folder / "store")


def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    """Compute with transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits  # type: ignore[no-any-return]


def test_a_student_of_the_class_is_trained_saved_and_opened_plainly(whole: Whole) -> None:
    (arm,) = whole.results.arms
    steps = {name: phase.steps for name, phase in arm.phases.items()}
    assert steps == {"distil": 2, "lora": 4, "qlora": 4, "qat": 4}
    teacher, student = whole.results.models["teacher"], whole.results.models["student"]
    assert teacher.vocabulary == student.vocabulary == whole.family.pieces
    assert (teacher.layers, teacher.hidden, teacher.feed_forward) == (3, 64, 128)
    assert (student.layers, student.hidden, student.feed_forward) == (2, 32, 64)
    published = AutoConfig.from_pretrained(whole.family.folder).to_dict()
    plain = AutoModelForCausalLM.from_pretrained(whole.exported)
    assert type(plain).__name__ == whole.family.class_name
    kept = {"rope_parameters", "sliding_window", "tie_word_embeddings", "num_key_value_heads", "vocab_size"}
    assert {key: plain.config.to_dict().get(key) for key in kept} == {key: published.get(key) for key in kept}
    ids = open_tokenizer(whole.exported).encode(CODE)
    assert ids == open_tokenizer(whole.family.folder).encode(CODE)
    assert logits(whole.exported, ids).equal(logits(arm.path, ids))
    weight = plain.get_submodule("model.layers.1.self_attn.o_proj").weight
    groups = weight.detach().unflatten(1, (-1, 32)).flatten(0, 1)
    assert max(len(group.unique()) for group in groups) <= 16, "qat leaves 4 bits a weight"


def test_the_student_teaches_again_and_is_asked_as_its_teacher_was(whole: Whole, tmp_path: Path) -> None:
    family = whole.family
    answers = []
    for folder in (family.folder, whole.exported):
        config: Any = family.kind.Config.model_validate({family.setting: str(folder), "dtype": "float32"})
        teacher = family.kind(config)
        teacher.kdtool_tokenizer(make_run(tmp_path))
        suffix = "\n\nadd(1, 2)\n" if teacher.open_tokenizer().infilling else None
        request = kdtool.Request("1", CODE, 3, suffix=suffix)
        (answer,) = teacher.kdtool_answer([request])
        answers.append((teacher.render(request), answer.tokens_in))
        assert 0 <= answer.tokens_out <= 3
        teacher.kdtool_close()
    assert answers[0] == answers[1]

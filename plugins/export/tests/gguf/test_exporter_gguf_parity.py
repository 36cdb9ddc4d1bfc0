"""What is written is compared with the student by logits, and columns are weighed by what they meet in training text."""

from __future__ import annotations

import errno
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any, get_args

import gguf
import kdtool
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf_students import TEXTS, save_student
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.calibration import measure_importance, prepare, read_importance, write_importance
from kdtool_export.gguf.checks import _compare_rows, _margin_of_mean, require_same
from kdtool_export.gguf.files import write_gguf
from kdtool_export.gguf.runtime import GGUFRuntime
from kdtool_export.gguf.settings import QUANTISED, Mix
from kdtool_testing import make_run
from kdtool_transformers import TransformersModel, TransformersRuntime

TRAINED = [f"def f{n}(x):\n    return x + {n}\n" for n in range(40)]
HELD_OUT = [f"class C{n}:\n    value = {n}\n" for n in range(20)]


def run_in(folder: Path, **fields: Any) -> kdtool.RunInfo:
    """Return a run with training text and other, held-out text."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": TRAINED, "test": HELD_OUT}
    examples = [
        kdtool.Example(f"{split}-{n}", kdtool.Text(text), split=split)  # type: ignore[arg-type]
        for split, texts in splits.items()
        for n, text in enumerate(texts)
    ]
    return make_run(folder, examples=examples, **fields)


@pytest.mark.parametrize("mix", get_args(Mix))
def test_every_type_is_the_same_model(mix: Mix, tmp_path: Path) -> None:
    save_student(tmp_path / "trained", digits=True)
    said: list[str] = []
    run = run_in(tmp_path / "run", name="small", say=said.append)
    artifact = GGUF(GGUF.Config(type=mix, threads=1)).kdtool_export(run, tmp_path / "trained")
    assert artifact.quantisation == (mix if mix in QUANTISED else "")
    assert artifact.path.name == f"small-{mix}.gguf"
    told = GGUFReader(artifact.path)
    fields = {name: told.get_field(f"general.{name}") for name in ("name", "file_type", "quantization_version")}
    number = gguf.LlamaFileType[f"{'ALL' if mix == 'f32' else 'MOSTLY'}_{mix.upper()}"]
    assert {name: field and field.contents() for name, field in fields.items()} == {
        "name": "small",
        "file_type": number,
        "quantization_version": 2,
    }
    assert any(f"small-{mix}.gguf: KL divergence" in line for line in said)
    assert "KL divergence" in artifact.card


def test_files_of_one_student_share_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_student(tmp_path / "trained", seed=7)
    read: list[int] = []

    def count(model: TransformersModel, windows: Any) -> Any:
        read.append(len(windows))
        return measure_importance(model, windows)

    monkeypatch.setattr("kdtool_export.gguf.calibration.measure_importance", count)
    for mix in ("q4_k_m", "q2_k"):
        GGUF(GGUF.Config(type=mix, threads=1)).kdtool_export(run_in(tmp_path / mix), tmp_path / "trained")
    assert len(read) == 1


def test_logits_are_compared_as_in_double_precision() -> None:
    drawn = torch.Generator().manual_seed(0)
    own = torch.randn(40, 3000, generator=drawn) * 4
    theirs = torch.randn(40, 3010, generator=drawn) * 4  # ten rows pad the vocabulary
    theirs[:20, :3000] = own[:20] + theirs[:20, :3000] / 1000
    targets = torch.randint(3000, (40,), generator=drawn)
    log_own, log_theirs = own.double().log_softmax(1), theirs.double().log_softmax(1)
    expected = [
        (log_own.exp() * (log_own - log_theirs[:, :3000])).sum(1),
        (own.argmax(1) == theirs.argmax(1)).double(),
        *(logs[range(40), targets] for logs in (log_own, log_theirs)),
    ]
    found = _compare_rows(own.clone(), theirs.clone(), targets).double()
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=5e-6)
    assert float((found[0] - expected[0]).mean().abs()) < 1e-6


def test_the_margin_is_that_of_a_mean_over_windows() -> None:
    drawn = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double()
    own = drawn.mean(1)
    assert _margin_of_mean([*drawn]) == pytest.approx(1.96 * float(own.std()) / 50**0.5)
    assert isnan(_margin_of_mean([drawn[0]]))


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    config = GGUF.Config(type="f32", threads=1)
    student = save_student(tmp_path / "trained")
    prepared = prepare(run_in(tmp_path / "run"), student, tmp_path / "trained", config)
    file = write_gguf(student, tmp_path / "a.gguf", pre="smollm")  # digits alone: other tokens than the student's
    with pytest.raises(kdtool.PluginError, match=r"splits .* differently from the student's tokenizer"):
        require_same(student, file, prepared, config)
    other = write_gguf(save_student(tmp_path / "other", seed=1), tmp_path / "b.gguf")
    with pytest.raises(kdtool.PluginError, match=r"b\.gguf differs from the student: KL divergence .*type: f32"):
        require_same(student, other, prepared, config)


def test_a_vocabulary_with_padding_rows_is_compared_on_its_tokens(tmp_path: Path) -> None:
    from kdtool_testing.tiny_models import save_tiny

    student = save_student(tmp_path / "trained")
    save_tiny(tmp_path / "trained", vocabulary=330, hidden_size=64, head_dim=16)
    student.tokenizer.save(tmp_path / "trained")
    artifact = GGUF(GGUF.Config(type="q8_0", threads=1)).kdtool_export(run_in(tmp_path / "run"), tmp_path / "trained")
    assert artifact.path.is_file()


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1], "".join(TEXTS) * 30])
def test_scores_of_any_length_are_the_student_s(text: str, tmp_path: Path) -> None:
    student = save_student(tmp_path / "trained")
    (expected,) = TransformersRuntime(student).score([text])
    with GGUFRuntime(write_gguf(student, tmp_path / "a.gguf"), context=4096, threads=1) as opened:
        (score, again) = opened.score([text, text])
    assert score == again
    assert (score.tokens, score.bytes) == (expected.tokens, expected.bytes)
    assert score.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-3)


def test_importance_is_the_mean_of_squared_inputs(tmp_path: Path) -> None:
    student = save_student(tmp_path / "trained")
    student.model.float()
    windows = [[1, 2, 3, 4], [5, 6]]
    found = measure_importance(student, windows)
    seen: list[torch.Tensor] = []
    layer = student.model.model.layers[1].mlp.down_proj
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(-1, layer.in_features)))
    for window in windows:
        student.model(torch.tensor([window]))
    expected = torch.cat(seen).square().mean(0).detach().numpy()
    assert found["blk.1.ffn_down.weight"] == pytest.approx(expected, rel=1e-4)
    assert len(found) == 7 * student.model.config.num_hidden_layers


def test_an_importance_matrix_is_read_as_it_was_written(tmp_path: Path) -> None:
    student = save_student(tmp_path / "trained")
    found = measure_importance(student, [[1, 2, 3]])
    write_importance(found, 3, "text", tmp_path / "a.gguf")
    again = read_importance(tmp_path / "a.gguf")
    assert {*again} == {*found}
    for name, values in found.items():
        assert again[name] == pytest.approx(values, rel=1e-5)
    told = GGUFReader(tmp_path / "a.gguf")
    assert {"imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"} <= {*told.fields}


def test_text_that_is_measured_on_is_not_calibrated_on(tmp_path: Path) -> None:
    from kdtool_export.gguf.calibration import windows_of

    student = save_student(tmp_path / "trained")
    run = run_in(tmp_path / "run")
    examples = [*run.texts.examples("train"), *run.texts.examples("test")]
    twice = replace(examples[0], id="again", split="test")
    (tmp_path / "two").mkdir()
    run = make_run(tmp_path / "two", examples=[*examples, twice])
    calibrating, measured = windows_of(run, student.tokenizer, 0, calibrate=10**6, measure=10**6)
    assert len(calibrating) == len(TRAINED) - 1
    assert len(measured) == len(HELD_OUT) + 1
    assert not {*map(tuple, calibrating)} & {*map(tuple, measured)}


def test_a_short_context_is_not_exceeded(tmp_path: Path) -> None:
    from kdtool_testing.tiny_models import save_tiny

    student = save_tiny(tmp_path / "trained", "gpt2", vocabulary=260, max_position_embeddings=96)
    (tmp_path / "run").mkdir()
    long = kdtool.Example("long", kdtool.Text("def f(): pass\n" * 40), split="test")
    run = make_run(tmp_path / "run", examples=[long])
    artifact = GGUF(GGUF.Config(type="f32")).kdtool_export(run, tmp_path / "trained")
    assert student.facts.context == 96
    assert artifact.path.is_file(), "llama.cpp would abort behind the last position"


def test_an_importance_matrix_of_another_model_is_refused_before_training(tmp_path: Path) -> None:
    save_student(tmp_path / "student")
    other = save_student(tmp_path / "other", hidden=96)
    write_importance(measure_importance(other, [[1, 2, 3]]), 3, "text", tmp_path / "other.gguf")
    exporter = GGUF(GGUF.Config(imatrix=str(tmp_path / "other.gguf")))
    run = replace(make_run(tmp_path), untrained=tmp_path / "student")
    with pytest.raises(
        kdtool.UsageError, match=r"has 96 columns of blk\.0\..*, and the student's have 64.*imatrix: text"
    ):
        exporter.kdtool_check(run, "student")


@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"no model"])
def test_a_file_without_an_importance_matrix_is_refused_at_the_start(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(kdtool.UsageError, match=r"^gguf\.imatrix: .*a\.gguf .*; expected a file of llama-imatrix"):
        GGUF(GGUF.Config(imatrix=str(tmp_path / "a.gguf"))).kdtool_check(make_run(tmp_path), "start")


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_student(tmp_path / "trained")
    run = run_in(tmp_path / "run")

    def fill(writer: gguf.GGUFWriter, **_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fill)
    with pytest.raises(kdtool.StorageError, match="No space left on device; free space there"):
        GGUF(GGUF.Config(threads=1)).kdtool_export(run, tmp_path / "trained")
    assert not [*run.folder.iterdir()]


def test_a_low_type_gains_from_an_importance_matrix() -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize
    from kdtool_export.gguf.quantisation import encode

    generator = np.random.default_rng(0)
    weights = generator.normal(size=(128, 512)).astype(np.float32)
    scale = np.exp(generator.normal(size=512)).astype(np.float32)
    inputs = generator.normal(size=(256, 512)).astype(np.float32) * scale
    kind = GGMLQuantizationType.Q2_K
    errors = [
        np.square(inputs @ (dequantize(encode(weights, kind, importance), kind) - weights).T).mean()
        for importance in (None, np.square(inputs).mean(0))
    ]
    assert errors[1] < 0.8 * errors[0]

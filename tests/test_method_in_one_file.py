"""`docs/distil.md`, the method in one file of plain PyTorch, trains as the trainer `standard` does."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from document_blocks import blocks
from kdtool_essentials.packed import Packed
from kdtool_loss_ce import CrossEntropy
from kdtool_loss_divergences import ForwardKL
from kdtool_testing import ByteTokenizer, ListSource, make_run
from kdtool_torch.trainer import StandardTrainer
from reference_model import Describing, Source

PAGE = Path(__file__).resolve().parent.parent / "docs" / "distil.md"
TEXTS = [f"def f{number}(x):\n    return x + {number}\n" * (1 + number % 4) for number in range(40)]
STEPS, BATCH, LENGTH = 20, 4, 48


@pytest.fixture(scope="module")
def distil() -> Any:
    """The page's file, as a module."""
    (block,) = (block for block in blocks(PAGE, PAGE.read_text(encoding="utf-8")) if block.language == "python")
    module = types.ModuleType("distil")
    exec(compile(block.text, "distil.py", "exec"), module.__dict__)  # noqa: S102 - the repository's
    return module


class DecoderModel(kdtool.LanguageModel):
    """The file's decoder as kdtool sees it."""

    def __init__(self, model: Any) -> None:
        self.model: Any = model
        self.tokenizer = ByteTokenizer()

    @property
    def facts(self) -> kdtool.ModelFacts:
        """Shapes."""
        count, width = sum(parameter.numel() for parameter in self.model.parameters()), self.model.norm.weight.numel()
        heads = self.model.blocks[0].heads
        shapes = (len(self.model.blocks), width, heads, heads, 3 * width, ByteTokenizer.vocabulary, LENGTH)
        return kdtool.ModelFacts(count, count, *shapes, "float32", True, "bytes")

    @property
    def head(self) -> kdtool.Head:
        """The tied head."""
        return kdtool.Head(self.model.embedding.weight, ByteTokenizer.vocabulary)

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        """Return final states at labelled positions."""
        return kdtool.ModelOutputs(self.model(batch.input_ids, batch.document)[batch.labels != -100])

    def save(self, folder: Path) -> None:
        """Refuse: it is never opened again."""
        raise NotImplementedError


def rows_of_kdtool(folder: Path) -> list[kdtool.Row]:
    """Return the rows that `packed` makes, without the last, which it pads."""
    examples: Iterable[kdtool.Example] = [kdtool.Example(text, kdtool.Text(text)) for text in TEXTS]
    packer = Packed(Packed.Config(length=LENGTH))
    rows = list(packer.kdtool_rows(make_run(folder), examples, ByteTokenizer()))
    return [row for row in rows if min(row.document) >= 0]


def train_by_engine(folder: Path, student: Any, teacher: Any) -> list[float]:
    """Return the loss of each step of the trainer `standard`."""
    rows, model = rows_of_kdtool(folder), DecoderModel(student)
    sources: dict[str, Any] = {}
    if teacher is None:
        loss: kdtool.Loss = CrossEntropy(CrossEntropy.Config())
        term = kdtool.LossTerm("losses.loss", "loss", 1.0)
    else:
        loss, sources["teacher"] = (
            ForwardKL(ForwardKL.Config(temperature=2.0)),
            Source(DecoderModel(teacher), kdtool.SignalRequest()),
        )
        term = kdtool.LossTerm("losses.loss", "loss", 1.0, 2.0, 4.0, "teacher", (frozenset({"logits"}),), True)
    described = Describing(Describing.Config())
    described.facts = model.facts
    run = make_run(folder / "run", {"losses.loss": loss, "teacher": described}, say=lambda _: None)
    phase = kdtool.Phase("distil", STEPS, (term,), ListSource(rows), sources, folder / "checkpoints")
    settings = {"batch": BATCH, "dtype": "float32", "compile": "off", "log_every": 1}
    trained = StandardTrainer(StandardTrainer.Config.model_validate(settings)).kdtool_train(run, phase, model)
    reports = [json.loads(line) for line in trained.history.read_text(encoding="utf-8").splitlines()]
    return [report["loss"] for report in reports]


def test_rows_are_those_of_the_packer(distil: Any, tmp_path: Path) -> None:
    ids, document = distil.pack(TEXTS, LENGTH)
    rows = rows_of_kdtool(tmp_path)
    assert ids.tolist() == [list(row.input_ids) for row in rows]
    assert (document - document[:, :1]).tolist() == [list(row.document) for row in rows]


@pytest.mark.parametrize("with_teacher", [True, False])
def test_losses_and_weights_are_those_of_the_trainer(distil: Any, tmp_path: Path, with_teacher: bool) -> None:
    torch.manual_seed(0)
    teacher = distil.Decoder(32, 2, 4) if with_teacher else None
    if teacher is not None:
        torch.nn.init.normal_(teacher.embedding.weight, std=0.5)
    student, other = distil.Decoder(16, 2, 2), distil.Decoder(16, 2, 2)
    other.load_state_dict(student.state_dict())
    found = distil.train(student, distil.pack(TEXTS, LENGTH), STEPS, BATCH, teacher)
    expected = train_by_engine(tmp_path, other, teacher)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] < 0.95 * found[0]
    for name, weight in student.named_parameters():
        torch.testing.assert_close(weight, other.get_parameter(name), rtol=1e-3, atol=1e-4)


def test_a_student_is_distilled_and_compared_with_its_control(
    distil: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{number}.py" for number in range(3)]
    for number, file in enumerate(files):
        file.write_text("".join(TEXTS[number::3]), encoding="utf-8")
    distil.main(files, steps=4, batch=2, length=32)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["teacher", "student", "control"]

"""The teachers `initial-student` and `feedback`: the student of a folder, and the same after it read its program's error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
import torch
from kdtool_teacher_initial_student import Feedback, InitialStudent
from kdtool_testing import TeacherConformance, make_run, write_toy_model
from kdtool_testing.sandbox import sandbox_is_there
from kdtool_testing.tiny_models import packed_batch, tiny_model
from kdtool_torch import collate
from kdtool_transformers import CausalStudent, open_model, open_tokenizer

WANT = kdtool.SignalRequest(frozenset({"logits"}))
PROMPT = "# Return n plus one.\n"
WRONG, RIGHT = "def inc(n):\n    return n\n", "def inc(n):\n    return n + 1\n"
TESTS = ["assert inc(1) == 2, 'one more'"]

EXAMPLES = [
    kdtool.Example("inc", kdtool.Completion(PROMPT, RIGHT), language="python", meta={"tests": json.dumps(TESTS)}),
    kdtool.Example("text", kdtool.Text("x = 1\n")),
]


class Saved(CausalStudent):
    """A student that is opened from a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None)
        self.folder = folder

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return open_tokenizer(self.folder, offline=True)

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        return self.kdtool_build_student(run)

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        return open_model(self.folder, offline=True)


class OfAStudent(TeacherConformance):
    """The suite of a teacher that is a student in a folder."""

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"student": Saved(write_toy_model(folder / "model"))}

    def ready(self, run: kdtool.RunInfo) -> Any:
        teacher = super().ready(run)
        teacher.kdtool_load_weights(run, run.folder / "model")
        return teacher


class TestInitialStudent(OfAStudent):
    component = InitialStudent
    entry_point = "initial-student"


def logits(signal: kdtool.Signal) -> torch.Tensor:
    assert signal.lazy is not None
    return signal.lazy.hidden @ signal.lazy.head.weight.T


def test_it_is_the_student_in_the_last_folder_and_frozen(tmp_path: Path) -> None:
    teacher, batch = InitialStudent(InitialStudent.Config(phase="qat")), packed_batch()
    assert teacher.initial_student == "qat"
    found = []
    for seed in (0, 1):
        student = tiny_model(seed=seed)
        student.save(tmp_path / f"model{seed}")
        run = make_run(tmp_path, {"student": Saved(tmp_path / f"model{seed}")}, seed=seed)
        teacher.kdtool_load_weights(run, tmp_path / f"model{seed}")
        signal = teacher.kdtool_signal(batch, WANT)
        found.append(logits(signal))
        with torch.no_grad():
            expected = student.backbone(batch, kdtool.SignalRequest()).last @ student.head.weight.T
        torch.testing.assert_close(found[-1], expected)
        assert not found[-1].requires_grad
    assert not torch.allclose(found[0], found[1])


def test_a_student_that_takes_its_tokenizer_from_it_is_refused(tmp_path: Path) -> None:
    class Heir(Saved):
        def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
            return self.tokenizer_of(run, "teacher")

    teacher = InitialStudent(InitialStudent.Config())
    run = make_run(tmp_path, {"student": Heir(tmp_path), "teacher": teacher})
    with pytest.raises(kdtool.UsageError, match="takes its tokenizer or weights from this teacher"):
        teacher.kdtool_tokenizer(run)


@pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")
class TestFeedback(OfAStudent):
    component = Feedback
    entry_point = "feedback"
    columns: ClassVar[Mapping[str, int]] = {"student_generated": 2}


class Asked:
    """The teacher, its student's model and rows of answers to the prompt."""

    def __init__(self, folder: Path, **settings: object) -> None:
        if not sandbox_is_there():
            pytest.skip("no sandbox on this machine")
        model = write_toy_model(folder / "model")
        self.model, self.tokenizer = open_model(model, offline=True), open_tokenizer(model, offline=True)
        self.teacher = Feedback(Feedback.Config.model_validate(settings))
        run = make_run(folder, {"student": Saved(model)}, examples=EXAMPLES)
        self.teacher.kdtool_load_weights(run, model)

    def row(self, key: str, *answers: str, generated: bool = True, length: int = 160) -> kdtool.Row:
        """Return a row of documents, each the prompt with an answer; only answers are labelled."""
        ids, labelled, document = list[int](), list[bool](), list[int]()
        start = list(self.tokenizer.document_start)
        for number, answer in enumerate(answers):
            prompt, written = [*start, *self.tokenizer.encode(PROMPT)], self.tokenizer.encode(answer)
            ids += prompt + written
            labelled += [False] * len(prompt) + [True] * len(written)
            document += [number] * (len(prompt) + len(written))
        padding = length - len(ids)
        assert padding >= 0
        columns = {"student_generated": [int(label and generated) for label in labelled] + [0] * padding}
        ids += [self.tokenizer.end_of_text] * padding
        return kdtool.Row(key, ids, labelled + [False] * padding, document + [-1] * padding, columns)

    def logits(self, rows: Iterable[kdtool.Row]) -> tuple[kdtool.Batch, torch.Tensor]:
        """Return the batch and its logits [B, L, V], 0 where nothing is labelled."""
        batch = collate(list(rows))
        signal = self.teacher.kdtool_signal(batch, WANT)
        assert signal.lazy is not None
        found = signal.lazy.head.logits(signal.lazy.hidden)
        logits = found.new_zeros(*batch.labels.shape, found.shape[-1])
        logits[batch.labels != -100] = found
        return batch, logits

    def told(self, context: str, answer: str) -> torch.Tensor:
        """Return logits that the model gives to an answer after the context and the prompt, computed by themselves."""
        before = [*self.tokenizer.document_start, *self.tokenizer.encode(context), *self.tokenizer.encode(PROMPT)]
        written = self.tokenizer.encode(answer)
        ids = before + written
        labelled = [False] * len(before) + [True] * len(written)
        with torch.no_grad():
            states = self.model.backbone(collate([kdtool.Row("r", ids, labelled, [0] * len(ids))]), WANT).last
        return self.model.head.logits(states)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    asked = Asked(tmp_path)
    yield asked
    asked.teacher.kdtool_close()


def test_a_wrong_program_is_scored_after_its_error(asked: Asked) -> None:
    batch, logits = asked.logits([asked.row("a", WRONG)])
    labelled = batch.labels[0] != -100
    expected = asked.told("# An earlier attempt failed: AssertionError: one more\n\n", WRONG)
    torch.testing.assert_close(logits[0, labelled], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, asked.told("", WRONG), atol=1e-2), "the error changes what it says"


def test_a_correct_program_of_the_batch_is_shown_for_the_wrong_one(asked: Asked) -> None:
    batch, logits = asked.logits([asked.row("a", RIGHT), asked.row("b", WRONG)])
    shown = "".join(f"# {line}\n" for line in RIGHT.splitlines())
    context = f"# An earlier attempt failed: AssertionError: one more\n# This one is correct:\n{shown}\n"
    for row, expected in enumerate((asked.told("", RIGHT), asked.told(context, WRONG))):
        torch.testing.assert_close(logits[row, batch.labels[row] != -100], expected, rtol=1e-4, atol=1e-4)


def test_documents_of_a_row_are_told_of_their_own_errors(asked: Asked) -> None:
    batch, logits = asked.logits([asked.row("a", "def inc(n):\n    raise ValueError\n", WRONG, length=200)])
    second = (batch.document[0] == 1) & (batch.labels[0] != -100)
    expected = asked.told("# An earlier attempt failed: AssertionError: one more\n\n", WRONG)
    torch.testing.assert_close(logits[0, second], expected, rtol=1e-4, atol=1e-4)


def test_long_errors_lose_their_beginning(tmp_path: Path) -> None:
    asked = Asked(tmp_path, maximum_tokens=3)
    batch, logits = asked.logits([asked.row("a", WRONG)])
    whole = "# An earlier attempt failed: AssertionError: one more\n\n"
    last = asked.tokenizer.decode(asked.tokenizer.encode(whole)[-3:])
    torch.testing.assert_close(logits[0, batch.labels[0] != -100], asked.told(last, WRONG), rtol=1e-4, atol=1e-4)
    asked.teacher.kdtool_close()


def test_text_of_the_corpus_and_other_prompts_are_scored_as_they_are(asked: Asked) -> None:
    batch, logits = asked.logits([asked.row("a", WRONG, generated=False)])
    torch.testing.assert_close(logits[0, batch.labels[0] != -100], asked.told("", WRONG), rtol=1e-4, atol=1e-4)


def test_a_phase_without_the_student_s_text_is_refused(asked: Asked) -> None:
    row = asked.row("a", WRONG)
    batch = collate([kdtool.Row(row.key, row.input_ids, row.labelled, row.document)])
    with pytest.raises(kdtool.UsageError, match=r"on_policy: \{fraction: 1\}"):
        asked.teacher.kdtool_signal(batch, WANT)


def test_text_without_tests_is_refused(tmp_path: Path) -> None:
    teacher = Feedback(Feedback.Config())
    assert "no prompts with tests" in teacher.kdtool_check(make_run(tmp_path), "text")[0]
    assert teacher.kdtool_check(make_run(tmp_path, examples=EXAMPLES), "text") == []
